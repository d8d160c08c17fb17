"""The attention-weighted allocator: p = softmax(a + log c) under bounds, then whole units.

A node is whatever receives a share. `shares` holds the arithmetic, `attention` the scores a, `strategies` the
interchangeable ways to a split, `performance` how well each node did, `capability` what each rank was
measured to do, and `ranks` puts them together for the ranks of a training group.
"""
