"""The node agent: one process that stands in for the kubelets of all nodes of the embedded cluster."""
