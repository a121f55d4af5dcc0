"""Containerfile and the examples in packaging/containers: they parse, and say only what there is."""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vfsmount.cli.commands import load
from vfsmount.cli.mount import command as mount

CHECKOUT = Path(__file__).parents[2]
FILES = CHECKOUT / "packaging" / "containers"
PAGE = (CHECKOUT / "docs" / "containers.md").read_text()
CONTAINERFILE = (CHECKOUT / "Containerfile").read_text()


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FILES / name).read_text()))


def commands(value: object) -> Iterator[list[str]]:
    """Every list of words anywhere in a document."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from commands(inner)
    elif isinstance(value, list):
        if value and all(isinstance(word, str) for word in value):
            yield value
        for inner in value:
            yield from commands(inner)


def units(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((FILES / name).read_text())
    return parser


def check_mount(words: list[str]) -> float:
    """The words are a mount's; its --drain-timeout."""
    ctx = mount.make_context("mount", list(words))
    assert ctx.params["foreground"] and ctx.params["allow_other"]
    return float(ctx.params["drain_timeout"])


def fits(drain: float, grace: float) -> bool:
    """As docs/containers.md has it: the drain, a quarter of it at most before that, two seconds."""
    return drain + min(5.0, drain / 4) + 2 <= grace


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.glob("*.yaml")))
def test_yaml_parses_and_every_command_in_it_exists(name: str) -> None:
    found = [words for document in documents(name) for words in commands(document)]
    ours = [words[words.index("vfsmount") + 1 :] for words in found if "vfsmount" in words[:2]]
    mounts = [words for words in found if words[0].startswith("/vfolders")]
    assert ours and mounts
    for words in ours:
        load(words[0]).make_context(words[0], words[1:])
    for words in mounts:
        check_mount(words)


def test_kubernetes_sidecar_starts_first_ends_last_and_has_the_time() -> None:
    claim, pod = documents("kubernetes.yaml")
    spec = pod["spec"]
    (sidecar,), (training,) = spec["initContainers"], spec["containers"]
    assert sidecar["restartPolicy"] == "Always"
    shared = {m["name"]: m for m in sidecar["volumeMounts"]}
    seen = {m["name"]: m for m in training["volumeMounts"]}
    assert (
        shared["folders"]["mountPropagation"] == "Bidirectional" and sidecar["securityContext"]["privileged"]
    )
    assert seen["folders"]["mountPropagation"] == "HostToContainer"
    volumes = {v["name"]: v for v in spec["volumes"]}
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    wait = sidecar["lifecycle"]["preStop"]["exec"]["command"]
    left = spec["terminationGracePeriodSeconds"] - float(wait[wait.index("--timeout") + 1])
    assert fits(check_mount(sidecar["args"]), left)


def test_compose_propagates_and_has_the_time() -> None:
    (compose,) = documents("compose.yaml")
    mounting, training = compose["services"]["vfolders"], compose["services"]["training"]
    assert mounting["volumes"][0]["bind"]["propagation"] == "rshared"
    assert training["volumes"][0]["bind"]["propagation"] == "rslave"
    assert mounting["volumes"][0]["source"] == training["volumes"][0]["source"]
    assert fits(check_mount(mounting["command"]), float(mounting["stop_grace_period"].removesuffix("s")))


def test_play_file_propagates_and_has_the_time() -> None:
    (pod,) = documents("podman-play.yaml")
    mounting, training = pod["spec"]["containers"]
    assert mounting["volumeMounts"][0]["mountPropagation"] == "Bidirectional"
    assert training["volumeMounts"][0]["mountPropagation"] == "HostToContainer"
    assert fits(check_mount(mounting["args"]), pod["spec"]["terminationGracePeriodSeconds"])


def test_quadlets_parse_and_have_the_time() -> None:
    mounting, training = units("vfolders.container"), units("training.container")
    grace = re.search(r"--stop-timeout=(\d+)", mounting["Container"]["PodmanArgs"])
    assert grace is not None
    assert fits(check_mount(mounting["Container"]["Exec"].split()), float(grace[1]))
    assert float(mounting["Service"]["TimeoutStopSec"]) > float(grace[1])
    assert training["Container"]["Volume"] == "/srv/vfolders:/work:rslave"
    assert training["Unit"]["Requires"] == "vfolders.service"


def test_every_example_is_on_the_page() -> None:
    for path in FILES.iterdir():
        assert f"packaging/containers/{path.name}" in PAGE


def test_image_mounts_as_an_ordinary_user_and_is_watched() -> None:
    assert re.search(r"^USER 1000:1000$", CONTAINERFILE, re.MULTILINE)
    lists = {
        kind: json.loads(text) for kind, text in re.findall(r"\b(ENTRYPOINT|CMD) (\[.*\])", CONTAINERFILE)
    }
    assert lists["ENTRYPOINT"] == ["vfsmount"]
    health = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    assert health is not None and json.loads(health[1]) == ["vfsmount", "health"]
    load("health").make_context("health", [])
    command = re.search(r"^CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    assert command is not None
    check_mount(json.loads(command[1]))
