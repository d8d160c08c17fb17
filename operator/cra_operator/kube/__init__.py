"""Talking to the API server: a light client, caches fed by watches, leader election, events."""
