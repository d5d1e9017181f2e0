"""Deployment files: valid by the published schemas, and true to the programs that they start.

Nothing here runs a container: it needs an engine that build machines do not have.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from serving import command
from serving.__main__ import app
from serving.lifecycle import SERVICE_NAME
from serving.settings import Settings
from serving.triton_install import triton_root

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
OVERLAYS = sorted((DEPLOY / "kubernetes" / "overlays").iterdir())
KUBERNETES_VERSION = "1.34"


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def base_objects() -> list[dict[str, Any]]:
    return [
        item
        for name in read(BASE / "kustomization.yaml")["resources"]
        for item in yaml.safe_load_all((BASE / name).read_text())
    ]


def kustomize(overlay: Path) -> list[dict[str, Any]]:
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("no kubectl to put the overlay together with")
    done = subprocess.run([kubectl, "kustomize", overlay], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))
    return found


def container(objects: list[dict[str, Any]], deployment: str) -> dict[str, Any]:
    (found,) = one(objects, "Deployment", deployment)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def compose() -> dict[str, Any]:
    return dict(read(DEPLOY / "compose.yaml"))


def arguments() -> dict[str, tuple[list[str], list[str]]]:
    """Return the arguments of the service and of Triton, in compose and in Kubernetes."""
    services = compose()["services"]
    objects = base_objects()
    return {
        "compose": (services["service"]["command"], services["triton"]["command"]),
        "kubernetes": (container(objects, "video-recognition")["args"], container(objects, "triton")["args"]),
    }


WHERE = ("compose", "kubernetes")


def option(args: list[str], name: str) -> str:
    (value,) = (arg.partition("=")[2] for arg in args if arg.partition("=")[0] == name)
    return value


# Schemas.


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_follow_the_compose_specification(name: str) -> None:
    spec = importlib.util.find_spec("check_jsonschema")
    assert spec and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    schema = json.loads((folder / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    jsonschema.validate(read(DEPLOY / name), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"x": {"imagine": "y"}}}, schema)


def test_the_gpu_compose_file_adds_to_services_that_are_there() -> None:
    assert read(DEPLOY / "compose.gpu.yaml")["services"].keys() <= compose()["services"].keys()


@pytest.mark.parametrize(
    "item", base_objects(), ids=lambda item: f"{item['kind']}-{item['metadata']['name']}"
)
def test_base_follows_the_kubernetes_schema(item: dict[str, Any]) -> None:
    if item["kind"] == "Deployment":  # kustomize's images transformer adds the tags
        assert item["spec"]["template"]["spec"]["containers"][0]["image"]
    kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_overlays_follow_the_kubernetes_schema(overlay: Path) -> None:
    objects = kustomize(overlay)
    for item in objects:
        kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)
        assert item["kind"] == "Namespace" or item["metadata"]["namespace"] == "sfavivit"
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "sfavivit"
    for deployment in ("triton", "video-recognition"):
        assert re.search(r":[\w.-]+$", container(objects, deployment)["image"]), "an image without a tag"
    triton = container(objects, "triton")
    assert triton["resources"]["limits"]["memory"]
    assert ("nvidia.com/gpu" in triton["resources"]["limits"]) == (overlay.name == "gpu")


def test_a_wrong_object_is_noticed() -> None:
    item = one(base_objects(), "Deployment", "triton")
    item["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)


def test_kustomizations_name_files_that_are_there() -> None:
    for file in (DEPLOY / "kubernetes").rglob("kustomization.yaml"):
        content = read(file)
        for name in [*content["resources"], *(patch["path"] for patch in content.get("patches", []))]:
            assert (file.parent / name).resolve().exists(), f"{file}: {name}"
    listed = {*read(BASE / "kustomization.yaml")["resources"], "kustomization.yaml"}
    assert {file.name for file in BASE.iterdir()} == listed


# True to the programs.


def settings_of(args: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings that the real command line makes of the arguments."""
    seen: list[Settings] = []

    async def started(settings: Settings) -> None:
        seen.append(settings)

    monkeypatch.setattr(command, "serve_until_signal", started)
    result = CliRunner().invoke(app, ["serve", *args])
    assert not result.exit_code, result.output or result.exception
    return seen[0]


@pytest.mark.parametrize("where", WHERE)
def test_the_service_takes_its_arguments(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(arguments()[where][0], monkeypatch)
    assert (settings.host, settings.port, settings.metrics_port) == ("0.0.0.0", 50051, 9464)
    assert settings.location == "triton://triton:8001"
    assert settings.security.tls_certificate and settings.security.token_file
    assert not settings.security.insecure
    assert settings.spool == Path("/spool")


@pytest.mark.parametrize("where", WHERE)
def test_triton_takes_its_arguments(where: str) -> None:
    program, *args = arguments()[where][1]
    assert program == "tritonserver"
    root = triton_root()
    libraries = str(root.parent.parent / "nvidia_pytriton.libs")
    environment = os.environ | {"LD_LIBRARY_PATH": libraries}
    shown = subprocess.run(
        [root / "bin" / "tritonserver", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    known = set(re.findall(r"--[a-z][\w-]+", shown.stdout + shown.stderr))
    assert {arg.partition("=")[0] for arg in args} <= known


def test_triton_computes_with_as_many_threads_as_it_may_use_cpus() -> None:
    triton = compose()["services"]["triton"]
    cpus = triton["deploy"]["resources"]["limits"]["cpus"]
    assert f"--backend-config=onnxruntime,intra_op_thread_count={cpus}" in triton["command"]


def test_the_tests_run_the_triton_that_is_deployed() -> None:
    """nvidia-pytriton says which release it carries; NVIDIA's release notes: 24.10 is 2.51."""
    tags = {compose()["services"]["triton"]["image"].rpartition(":")[2].rstrip("}")}
    tags |= {i["newTag"] for i in read(BASE / "kustomization.yaml")["images"] if "triton" in i["name"]}
    assert tags == {"24.10-py3"}


def test_kubernetes_ports_fit_together() -> None:
    objects = base_objects()
    for name in ("video-recognition", "triton"):
        pod = one(objects, "Deployment", name)["spec"]["template"]
        ports = {port["name"]: port["containerPort"] for port in container(objects, name)["ports"]}
        assert int(pod["metadata"]["annotations"]["prometheus.io/port"]) == ports["metrics"]
        (port,) = one(objects, "Service", name)["spec"]["ports"]
        assert ports[port["targetPort"]] == port["port"]
        for rule in one(objects, "NetworkPolicy", name)["spec"]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= ports.keys()
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if "httpGet" in container(objects, name).get(probe, {}):
                assert container(objects, name)[probe]["httpGet"]["port"] in ports
    args = arguments()["kubernetes"][0]
    ports = {port["name"]: port["containerPort"] for port in container(objects, "video-recognition")["ports"]}
    assert (option(args, "--port"), option(args, "--metrics-port")) == (
        str(ports["grpc"]),
        str(ports["metrics"]),
    )
    engine = re.fullmatch(r"triton://([\w-]+):(\d+)", option(args, "--engine"))
    assert engine and one(objects, "Service", engine[1])["spec"]["ports"][0]["port"] == int(engine[2])


def test_selectors_select() -> None:
    objects = base_objects()
    labels = [
        item["spec"]["template"]["metadata"]["labels"] for item in objects if item["kind"] == "Deployment"
    ]
    for item in objects:
        selectors = {
            "Service": lambda spec: spec["selector"],
            "Deployment": lambda spec: spec["selector"]["matchLabels"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"].get("matchLabels", {}),
        }
        if item["kind"] in selectors:
            wanted = selectors[item["kind"]](item["spec"])
            assert any(wanted.items() <= pod.items() for pod in labels), item
    target = one(objects, "HorizontalPodAutoscaler", "video-recognition")["spec"]["scaleTargetRef"]
    assert "replicas" not in one(objects, target["kind"], target["name"])["spec"]
    assert container(objects, target["name"])["resources"]["requests"]["cpu"]


@pytest.mark.parametrize("name", ["video-recognition", "triton"])
def test_pods_are_confined(name: str) -> None:
    pod = one(base_objects(), "Deployment", name)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (only,) = pod["containers"]
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["name"] for mount in only["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {"livenessProbe", "readinessProbe"} <= only.keys()
    assert only["resources"]["requests"] and only["resources"]["limits"]


@pytest.mark.parametrize("name", ["service", "triton"])
def test_composed_containers_are_confined(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if name == "triton":
        assert service["networks"] == ["engine"] and compose()["networks"]["engine"]["internal"] is True
        assert not service.get("ports")


@pytest.mark.parametrize("where", WHERE)
def test_what_the_service_reads_and_writes_is_mounted(where: str) -> None:
    args = arguments()[where][0]
    paths = [option(args, name) for name in ("--tls-cert", "--tls-key", "--token-file", "--spool")]
    if where == "kubernetes":
        mounts = [
            mount["mountPath"] for mount in container(base_objects(), "video-recognition")["volumeMounts"]
        ]
    else:
        service = compose()["services"]["service"]
        mounts = [f"/run/secrets/{name}" for name in service["secrets"]]
        mounts += [entry.partition(":")[0] for entry in service["tmpfs"]]
        assert set(service["secrets"]) == compose()["secrets"].keys()
    assert "/tmp" in mounts
    for path in paths:
        assert any(Path(path).is_relative_to(mount) for mount in mounts), path


@pytest.mark.parametrize("where", WHERE)
def test_uploads_and_drain_fit(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(arguments()[where][0], monkeypatch)
    if where == "kubernetes":
        pod = one(base_objects(), "Deployment", "video-recognition")["spec"]["template"]["spec"]
        (spool,) = (v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"] == "spool")
        assert settings.max_streams * settings.max_upload_bytes <= int(spool.removesuffix("Gi")) << 30
        sleep = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
        assert sleep + settings.drain_seconds < pod["terminationGracePeriodSeconds"]
    else:
        service = compose()["services"]["service"]
        assert settings.drain_seconds < int(service["stop_grace_period"].removesuffix("s"))


# The image.


def dockerfile() -> list[list[str]]:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_image_is_made_of_files_that_are_there() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for instruction, *words in dockerfile():
        if instruction == "COPY" and not words[0].startswith("--from="):
            for source in words[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source.rstrip('/')}" in ignored, f"{source} is kept from the build"


def test_the_image_runs_the_service_as_nobody_in_particular() -> None:
    lines = dockerfile()
    assert ["USER", "10001:10001"] in lines
    assert ["ENTRYPOINT", '["python",', '"-m",', '"serving"]'] in lines
    assert ["EXPOSE", "50051", "9464"] in lines
    assert all(re.search(r":\d+\.\d+\.\d+", line[1]) for line in lines if line[0] == "FROM")
    (install,) = (line for line in lines if line[0] == "RUN" and "install" in line)
    assert "--constraint" in install and "constraints.txt" in install


def test_the_image_holds_all_that_the_service_imports() -> None:
    """Applications beside the library: only those that are copied may be imported."""
    copied = {line[1].rstrip("/") for line in dockerfile() if line[0] == "COPY"}
    applications = {"export", "training", "benchmarks", "tests", "serving", "client"} - copied
    for folder in ("serving", "client"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {name.partition(".")[0] for name in names} & applications, file


@pytest.mark.parametrize("where", WHERE)
def test_probes_are_calls_that_the_probe_understands(where: str) -> None:
    if where == "compose":
        commands = [compose()["services"]["service"]["healthcheck"]["test"][1:]]
    else:
        only = container(base_objects(), "video-recognition")
        commands = [only[probe]["exec"]["command"] for probe in ("readinessProbe", "livenessProbe")]
    (in_image,) = (line[2] for line in dockerfile() if line[:2] == ["COPY", "deploy/healthcheck.py"])
    ready = commands[0]
    assert f"--service={SERVICE_NAME}" in ready
    for program, script, address, *options in commands:
        assert (program, script) == ("python", in_image)
        assert address.rpartition(":")[2] == option(arguments()[where][0], "--port")
        done = subprocess.run(
            [sys.executable, DEPLOY / "healthcheck.py", "127.0.0.1:1", *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and "usage" not in done.stderr  # understood, and nobody there
