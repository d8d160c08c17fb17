"""The node agent: one process that stands in for the kubelets of all nodes of the embedded cluster.

It registers the nodes with their simulated GPUs, keeps their leases, and plays the pods that the
scheduler binds to them as real processes: init containers and sidecars, environment, volumes, probes and
hooks, restarts with back-off, graceful deletion, exit codes, termination messages, logs, memory limits,
events and status, all as the API server and `kubectl` would see it from kubelets. Beside that it is the
cluster's network (pod addresses, cluster DNS, cluster IPs), its volume provisioner, its device plugin and
its GPU exporter.

A reader may start with `agent`, which wires everything; then `pod` and `container`, the life of each;
then what they stand upon: `sandbox` and `mounts` (processes), `network`, `volumes`, `environ`, `status`.
`gpu` and `quota` hold what a simulated GPU is. Pure are `status`, `environ`, `mounts`, `files`,
`quantity`, `gpu`, `logs`' and `probes`' counting, and `dns.lookup`.

What it does not do, for it is a test double:

- There are no images. Each image name of the catalogue stands for the host's file system, read in place,
  with an entry point and variables; any other name fails to be pulled. The root is always read-only but
  for what lies on the container's own tmpfs (`/`, `/tmp`, `/run`, `/dev/shm`); `HOME` is `/tmp`.
- It is no security boundary. Processes run as whoever started the cluster (root inside the namespaces),
  with the default capabilities of container runtimes; `runAsUser`, `runAsNonRoot`, `fsGroup`,
  `seccompProfile`, added and dropped capabilities are not applied, though admission checks them as
  anywhere.
- CPU limits are not enforced (the quota of simulated GPUs is), memory limits only by looking twice a
  second at resident pages (those that processes share count for each of them), and sizes of volumes not at
  all (but for memory volumes).
- Config maps and secrets are read when a pod starts; a running pod does not see them change. Tokens are
  renewed.
- No exec, attach, port-forward, ephemeral containers, host network, host PID or IPC, device plugins,
  dynamic resources, in-place resize, eviction under pressure, log rotation, gRPC probes, stats or metrics
  of kubelets.
- No UDP services, node ports, load balancers, external names, session affinity, network policies, IPv6;
  DNS has A records only and knows no name outside the cluster.
- Pods that ran under an agent before this one are marked as failed (`NodeAgentRestarted`).

Two things are there for tests that no kubelet has: the annotation `sim.cra.dev/lost: "true"` makes a node
play dead until it is removed, and `AgentConfig` sets the pace of back-off and leases.
"""
