"""Built-in workloads: short scripts on the public session API, with data that ships with the machine."""
