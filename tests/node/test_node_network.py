"""Names and addresses inside the cluster: pods, headless services, cluster IPs, the API server."""

import pytest

from tests.node.user import User, python, shell

pytestmark = pytest.mark.cluster

_SLICES = "endpointslices --selector=kubernetes.io/service-name=web"
_SERVER = """
    import http.server, socket
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(socket.gethostname().encode())
        def log_message(self, *_):
            pass
    http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


def _service(name: str, **spec: object) -> dict[str, object]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": ports, **spec},
    }


def _serve(user: User, name: str, **spec: object) -> None:
    probe = {"httpGet": {"port": 8080}, "periodSeconds": 1}
    user.run(name, python(_SERVER), container={"readinessProbe": probe}, labels={"app": "web"}, **spec)


def test_a_cluster_ip_reaches_every_ready_pod(user: User) -> None:
    user.apply(_service("web"))
    for name in ("web-0", "web-1"):
        _serve(user, name)
    for name in ("web-0", "web-1"):
        user.wait(f"pod/{name}", ".status.containerStatuses[0].ready", "true")
    user.wait(_SLICES, ".endpoints[1].addresses[0]")
    code = """
        import time, urllib.request
        seen, deadline = set(), time.monotonic() + 10
        while seen != {"web-0", "web-1"} and time.monotonic() < deadline:
            seen.add(urllib.request.urlopen("http://web", timeout=5).read().decode())
        print(sorted(seen))
    """
    user.run("client", python(code))
    assert user.output("client") == "['web-0', 'web-1']\n"


def test_a_headless_service_names_its_pods_before_they_are_ready(user: User) -> None:
    user.apply(_service("team", clusterIP="None", publishNotReadyAddresses=True))
    never = {"exec": {"command": ["false"]}}
    for rank in (0, 1):
        name = f"team-{rank}"
        spec = {"hostname": name, "subdomain": "team"}
        user.run(name, ["sleep", "600"], container={"readinessProbe": never}, labels={"app": "web"}, **spec)
    code = """
        import socket, time
        def look(name):
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    return sorted({found[4][0] for found in socket.getaddrinfo(name, 80)})
                except socket.gaierror:
                    time.sleep(0.05)
        one, two = look("team-0.team"), look("team-1.team")
        while len(both := look("team")) < 2:
            time.sleep(0.05)
        print(*one, *two)
        assert both == sorted(one + two)
    """
    user.run("client", python(code))
    addresses = [user.get(f"pod/team-{rank}")["status"].get("podIP") for rank in (0, 1)]
    assert user.output("client").split() == addresses


def test_a_pod_finds_itself_by_its_host_name(user: User) -> None:
    code = "import socket; print(socket.gethostname(), socket.gethostbyname(socket.gethostname()))"
    user.run("self", python(code), subdomain="team")
    host, address = user.output("self").split()
    assert (host, address) == ("self", user.get("pod/self")["status"]["podIP"])
    user.run("hosts", shell("hostname; cat /etc/hosts"), hostname="other", subdomain="team")
    assert f"other.team.{user.namespace}.svc.cluster.local\tother" in user.output("hosts")


def test_other_names_do_not_exist_and_say_so_at_once(user: User) -> None:
    code = """
        import socket, time
        start = time.monotonic()
        try:
            socket.getaddrinfo("example.com", 80)
        except socket.gaierror as error:
            print(error.errno == socket.EAI_NONAME, time.monotonic() - start < 1)
    """
    user.run("lost", python(code))
    assert user.output("lost") == "True True\n"


def test_a_pod_talks_to_the_api_server_with_its_own_token(user: User) -> None:
    code = """
        import json, os, ssl, urllib.request
        folder = "/var/run/secrets/kubernetes.io/serviceaccount"
        tls = ssl.create_default_context(cafile=f"{folder}/ca.crt")
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        request = urllib.request.Request(
            f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            data=json.dumps(body).encode(),
            headers={
                "Authorization": "Bearer " + open(f"{folder}/token").read(),
                "Content-Type": "application/json",
            },
        )
        print(json.load(urllib.request.urlopen(request, context=tls))["status"]["userInfo"]["username"])
    """
    user.run("asks", python(code))
    assert user.output("asks") == f"system:serviceaccount:{user.namespace}:default\n"


def test_readiness_decides_who_gets_traffic(user: User) -> None:
    user.apply(_service("web"))
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    script = "sleep 1.5; touch /tmp/ready; sleep 600"
    user.run("late", shell(script), container={"readinessProbe": probe}, labels={"app": "web"})
    user.wait("pod/late", ".status.phase", "Running")
    assert not user.container("late")["ready"]
    user.wait(_SLICES, ".endpoints[0].conditions.ready", "false")
    user.wait("pod/late", ".status.containerStatuses[0].ready", "true")
    user.wait(_SLICES, ".endpoints[0].conditions.ready", "true")
    assert "Unhealthy" in user.reasons("late")


def test_a_failing_liveness_probe_restarts_the_container(user: User) -> None:
    probe = {"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1}
    container = {"livenessProbe": probe | {"terminationGracePeriodSeconds": 1}}
    user.run("sick", ["sleep", "600"], container=container, restartPolicy="Always")
    user.wait("pod/sick", ".status.containerStatuses[0].lastState.terminated.exitCode", "137")
    assert {"Unhealthy", "Killing"} <= user.reasons("sick")


def test_other_probes_wait_for_the_startup_probe(user: User) -> None:
    startup = {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 10}
    liveness = {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 1}
    container = {"startupProbe": startup, "livenessProbe": liveness}
    user.run("slow", shell("sleep 2; touch /tmp/up; sleep 600"), container=container)
    user.wait("pod/slow", ".status.containerStatuses[0].started", "true")
    assert user.container("slow")["restartCount"] == 0


def test_requests_on_a_service_port_without_pods_are_refused(user: User) -> None:
    user.apply(_service("web", selector={"app": "nobody"}))
    code = """
        import urllib.request
        try:
            urllib.request.urlopen("http://web", timeout=5)
        except OSError as error:
            print("refused")
    """
    user.run("client", python(code))
    assert user.output("client") == "refused\n"
