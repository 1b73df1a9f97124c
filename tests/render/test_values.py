"""values.yaml, its schema, its documentation and the templates know the same keys."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from stack_backup.runs import variables
from stack_backup_lab.bed import tools
from stack_backup_lab.paths import BIN, PROJECT
from stack_backup_lab.render import CHART, NAMESPACE, RenderError, load_values, merge_values, render
from stack_backup_lab.runtime.pod import expand
from tests.render.schema import Key, complaints, default_keys, dotted, load, nested, nodes
from tests.render.stacks import STACKS, computed, lint, template

SCHEMA = load()
DEFAULTS = load_values(CHART / "values.yaml")
KEYS = default_keys(DEFAULTS, SCHEMA)
LEAVES = {key: value for key, value in KEYS.items() if not any(other[:-1] == key for other in KEYS)}

DEPRECATED = {key for key, node in nodes(SCHEMA).items() if node.get("deprecated")}
JOB = SCHEMA["$defs"]["job"]["properties"]
SECTIONS = [
    name
    for name, node in SCHEMA["properties"].items()
    if name != "jobDefaults" and "patternProperties" in node
]
"""The jobs' sections, each of which takes what `jobDefaults` takes."""

# Maps whose keys are Kubernetes' own, or those of other charts.
OPEN = {
    ("global",),
    *((section, "affinity") for section in ("jobDefaults", *SECTIONS)),
}


def _undocumented(text: str) -> list[str]:
    """Keys of a values.yaml without helm-docs' `# --` in the comment above them or a map around them."""
    path: list[tuple[int, str]] = []
    documented: dict[Key, bool] = {}
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.strip())
            continue
        match = re.match(r"( *)([A-Za-z][A-Za-z0-9]*):", line)
        if match:
            indent = len(match[1])
            path = [step for step in path if step[0] < indent] + [(indent, match[2])]
            documented[tuple(name for _, name in path)] = any(entry.startswith("# --") for entry in comment)
        comment = []
    parents = {key[:-1] for key in documented}
    return [
        dotted(key)
        for key in documented
        if key not in parents and not any(documented[key[:length]] for length in range(1, len(key) + 1))
    ]


def test_every_key_of_the_defaults_is_in_the_schema_and_every_key_of_the_schema_in_the_defaults() -> None:
    """But for what a job takes from `jobDefaults`, for old names, and for amounts that nobody needs."""
    # `enabled` is what an umbrella's condition reads: by itself, the chart has no use for it.
    missing = set(nodes(SCHEMA)) - set(KEYS) - DEPRECATED - {("enabled",)}
    assert set(KEYS) <= set(nodes(SCHEMA))
    assert {key for key in missing if key[0] not in SECTIONS or key[1] not in JOB} == {
        (*section, "resources", group, "ephemeral-storage")
        for section in (("jobDefaults",), ("python",), ("rclone",), ("monitoring", "exporter"))
        for group in ("requests", "limits")
    }


def test_every_section_of_a_job_takes_what_all_jobs_take() -> None:
    assert set(DEFAULTS["jobDefaults"]) == set(JOB) == set(SCHEMA["properties"]["jobDefaults"]["required"])
    others = {"history.enabled", "networkPolicy.enabled", "postgresReplicatorBackup.sanitise.enabled"}
    assert {f"{name}.enabled" for name in SECTIONS} | others == {
        dotted(key) for key in LEAVES if key[-1] == "enabled" and key[0] != "monitoring"
    }
    for name in ("jobDefaults", *SECTIONS):
        node = SCHEMA["properties"][name]
        assert node["patternProperties"] == {f"^({'|'.join(JOB)})$": True}, name
        assert node["allOf"] == [{"$ref": "#/$defs/job"}], name


def test_every_map_of_the_schema_is_closed_or_known_to_be_open() -> None:
    opened = {
        key
        for key, node in {(): SCHEMA, **nodes(SCHEMA)}.items()
        if (node.get("type") == "object" or "properties" in node)
        and node.get("additionalProperties") is not False
    }
    assert opened - DEPRECATED == OPEN


def test_every_key_of_the_schema_has_a_type_and_is_explained() -> None:
    for key, node in nodes(SCHEMA).items():
        assert node.get("description"), dotted(key)
        assert "type" in node or "enum" in node, dotted(key)


def test_the_schema_is_one_that_helm_and_jsonschema_read_alike() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    text = (CHART / "values.schema.json").read_text(encoding="utf-8")
    assert '"format"' not in text, "validators differ in what they check of a format: use pattern or enum"
    assert not re.search(r"\(\?[=!<]", text), "Go's regular expressions cannot look around"


def test_no_name_of_a_key_is_checked_by_propertynames() -> None:
    """Helm says such a breach of some other key."""
    assert "propertyNames" not in (CHART / "values.schema.json").read_text(encoding="utf-8")


def test_no_default_is_null() -> None:
    """Helm 4 drops such a key, Helm 3 keeps it."""
    assert [dotted(key) for key, value in KEYS.items() if value is None] == []


def test_the_chart_names_the_images_of_its_defaults() -> None:
    listed = yaml.safe_load(load_values(CHART / "Chart.yaml")["annotations"]["artifacthub.io/images"])
    images = {name: DEFAULTS[name]["image"] for name in ("database", "python", "rclone")}
    assert {item["name"]: item["image"] for item in listed} == {
        name: f"{image['repository']}:{image['tag']}" for name, image in images.items()
    }


def test_the_tests_run_the_rclone_that_is_shipped() -> None:
    pins = (PROJECT / "scripts/stack_backup_lab/bed/go/rclone/go.mod").read_text(encoding="utf-8")
    assert f"github.com/rclone/rclone v{DEFAULTS['rclone']['image']['tag']} " in pins


def test_every_key_of_the_defaults_is_documented() -> None:
    assert _undocumented((CHART / "values.yaml").read_text(encoding="utf-8")) == []


def test_an_undocumented_key_is_found() -> None:
    text = "a:\n  # Why.\n  b: 1\n  # -- In\n  # two lines.\n  c: 1\nd: 2\n# -- All.\ne:\n  f: 3\n"
    assert _undocumented(text) == ["a.b", "d"]


def test_the_charts_readme_is_generated_from_its_values(tmp_path: Path) -> None:
    tools.ensure("helm-docs")
    done = subprocess.run(
        [BIN / "helm-docs", "--chart-search-root", CHART.parent, "--dry-run", "--log-level", "error"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.strip() == (CHART / "README.md").read_text(encoding="utf-8").strip(), "run `make docs`"


def test_every_stack_is_accepted(stack: str) -> None:
    values, _ = STACKS[stack]
    assert complaints(computed(values), SCHEMA) == []
    for executable in ("helm", "helm3"):
        ok, said = lint(values, executable)
        assert ok, said


# -- every value shows ---------------------------------------------------------------------------------------

# Every optional part, and the recoveries and the doctor by themselves, too.
BASE = merge_values(
    STACKS["ci/everything"][0],
    {"doctor": {"schedule": "30 5 * * *"}},
    {
        section: {"schedule": "30 5 * * *", "confirm": NAMESPACE}
        for section in ("databaseRecovery", "mediaRecovery")
    },
    {"mediaRecovery": {"source": "offsite"}},
)
CURRENT = computed(BASE)

# Another value for each key of which one cannot be guessed from the one that it has.
OTHER: dict[str, Any] = {
    "postgresBackupHourly.dumpSize": "1Ti",
    "database.image.digest": f"sha256:{64 * 'a'}",
    "databaseRecovery.dump": "2022-11-28T08:51:08Z",
    "databaseDrill.dump": "2022-11-28T08:51:08Z",
    "networkPolicy.databasePeers": [{"podSelector": {"matchLabels": {"app": "another"}}}],
    "networkPolicy.offsitePeers": [{"ipBlock": {"cidr": "198.51.100.0/24"}}],
    "networkPolicy.offsitePorts": [9000],
    "notify.peers": [{"ipBlock": {"cidr": "198.51.100.0/24"}}],
    "notify.ping": ["offsite"],
    "notify.ports": [9000],
    "offsite.folders": ["hourly"],
    "monitoring.exporter.peers": [{"podSelector": {"matchLabels": {"app": "another"}}}],
    "monitoring.podMonitor.interval": "60s",
    "monitoring.podMonitor.scrapeTimeout": "5s",
    "global.imagePullSecrets": [{"name": "another"}],
    "jobDefaults.affinity": {"podAffinity": {}},
    "jobDefaults.extraEnv": [{"name": "ANOTHER", "value": "x"}],
    "jobDefaults.extraVolumeMounts": [{"name": "certificates", "mountPath": "/certificates"}],
    "jobDefaults.extraVolumes": [{"name": "certificates", "emptyDir": {"sizeLimit": "1Mi"}}],
    "jobDefaults.tolerations": [{"operator": "Exists"}],
    "jobDefaults.topologySpreadConstraints": [
        {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "pod.imagePullSecrets": [{"name": "another"}],
    "pod.supplementalGroups": [5000],
    "rclone.image.digest": f"sha256:{64 * 'a'}",
    "python.image.digest": f"sha256:{64 * 'a'}",
    "databaseRecovery.serverRoom": "10Gi",
    "volumes.accessModes": ["ReadWriteOnce"],
    "volumes.databaseBackup.accessModes": ["ReadWriteOnce"],
    "volumes.history.accessModes": ["ReadWriteOnce"],
    "volumes.replicaCheck.accessModes": ["ReadWriteMany"],
}
# By the last part of the key.
OTHER_LAST: dict[str, Any] = {
    "bandwidthLimit": "70M",
    "cpu": "3",
    "memory": "300Mi",
    "schedule": "7 * * * *",
    "size": "700Gi",
    "timeZone": "Europe/London",
}
# What else must be set for a value to count.
WITH: dict[str, dict[str, Any]] = {
    "database.image.tag": {"database": {"image": {"digest": ""}}},
    "volumes.accessModes": {"volumes": {"databaseBackup": {"accessModes": []}}},
}
# What replaces data is never repeated: written out, so that jobDefaults cannot say otherwise.
WITHOUT_EFFECT = {key for key in LEAVES if "const" in nodes(SCHEMA)[key]}


def _current(key: Key) -> Any:
    value: Any = CURRENT
    for name in key:
        value = value[name]
    return value


def _other(key: Key) -> Any:
    """A value that the key does not have in BASE."""
    name, value, node = dotted(key), _current(key), nodes(SCHEMA)[key]
    if name in OTHER:
        return OTHER[name]
    if key[-1] in OTHER_LAST:
        return OTHER_LAST[key[-1]]
    if "enum" in node:
        return next(choice for choice in node["enum"] if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value - 1 if value == node.get("maximum") else value + 1
    if isinstance(value, str):
        return f"{value}x" if value else "example"
    if isinstance(value, dict):
        return {"example": "x"}
    return ["example"]


def _objects(values: dict[str, Any], chart: Path = CHART) -> list[dict[str, Any]] | str:
    """The render, or the sentence of the guard that stopped it."""
    try:
        return list(render(values, chart=chart))
    except RenderError as error:
        if "schema" in str(error):
            raise
        return str(error)


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in LEAVES if key not in WITHOUT_EFFECT], ids=dotted)
def test_every_value_changes_what_is_rendered(key: Key) -> None:
    base = merge_values(BASE, WITH.get(dotted(key), {}))
    assert _other(key) != _current(key)
    assert _objects(merge_values(base, nested(key, _other(key)))) != _objects(base)


def test_the_base_of_these_tests_is_rendered_whole() -> None:
    """Were it stopped by a guard, one sentence would be compared with another."""
    for extra in ({}, *WITH.values()):
        assert isinstance(_objects(merge_values(BASE, extra)), list)
    enabled = [key for key in LEAVES if key[-1] == "enabled"]
    assert len(enabled) > len(SECTIONS) > 8
    assert {dotted(key) for key in WITHOUT_EFFECT} == {
        "databaseRecovery.backoffLimit",
        "mediaRecovery.backoffLimit",
    }
    assert all(_current(key) for key in enabled)


def test_every_exception_is_of_a_key_that_is_there() -> None:
    assert {*OTHER, *WITH, *map(dotted, WITHOUT_EFFECT)} <= {dotted(key) for key in LEAVES}
    assert OTHER_LAST.keys() <= {key[-1] for key in LEAVES}


# -- every job, or one ---------------------------------------------------------------------------------------

SECTION_OF = {
    "postgres-backup-hourly": "postgresBackupHourly",
    **dict.fromkeys(
        ("postgres-backup-daily", "postgres-backup-weekly", "postgres-backup-monthly"), "postgresBackupTiers"
    ),
    "postgres-replicator-backup": "postgresReplicatorBackup",
    "media-replicator": "mediaReplicator",
    "database-recovery": "databaseRecovery",
    "media-recovery": "mediaRecovery",
    "database-drill": "databaseDrill",
    "replica-check": "replicaCheck",
    "offsite": "offsite",
    "doctor": "doctor",
}
JOB_SPEC = ("jobTemplate", "spec")
POD = (*JOB_SPEC, "template", "spec")
CONTAINER = (*POD, "containers", 0)
# Two values of each key, where a CronJob shows them, and which part of them (the last of a list, or one key).
SHOWN: dict[str, tuple[Any, Any, tuple[Any, ...], tuple[Any, ...]]] = {
    "timeZone": ("Europe/London", "Asia/Tokyo", ("timeZone",), ()),
    "suspend": (True, False, ("suspend",), ()),
    "deadlineSeconds": (600, 700, (*JOB_SPEC, "activeDeadlineSeconds"), ()),
    "startingDeadlineSeconds": (300, 400, ("startingDeadlineSeconds",), ()),
    "backoffLimit": (3, 0, (*JOB_SPEC, "backoffLimit"), ()),
    "successfulJobsHistoryLimit": (7, 8, ("successfulJobsHistoryLimit",), ()),
    "failedJobsHistoryLimit": (7, 8, ("failedJobsHistoryLimit",), ()),
    "ttlSecondsAfterFinished": (1000000, 31622400, (*JOB_SPEC, "ttlSecondsAfterFinished"), ()),
    "resources": (
        {"requests": {"cpu": "70m"}},
        {"requests": {"cpu": "90m"}},
        (*CONTAINER, "resources"),
        ("requests", "cpu"),
    ),
    "nodeSelector": ({"disk": "ssd"}, {"disk": "hdd"}, (*POD, "nodeSelector"), ()),
    "tolerations": (
        [{"key": "a", "operator": "Exists"}],
        [{"operator": "Exists"}],
        (*POD, "tolerations"),
        (),
    ),
    "affinity": ({"podAffinity": {"a": []}}, {"podAffinity": {"a": [{}]}}, (*POD, "affinity"), ()),
    "topologySpreadConstraints": (
        [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        (*POD, "topologySpreadConstraints"),
        (),
    ),
    "priorityClassName": ("one", "other", (*POD, "priorityClassName"), ()),
    "labels": ({"team": "1"}, {"team": "2"}, ("jobTemplate", "metadata", "labels"), ("team",)),
    "annotations": ({"team": "1"}, {"team": "2"}, ("jobTemplate", "metadata", "annotations"), ("team",)),
    "podLabels": ({"team": "1"}, {"team": "2"}, (*JOB_SPEC, "template", "metadata", "labels"), ("team",)),
    "podAnnotations": ({"a": "1"}, {"a": "2"}, (*JOB_SPEC, "template", "metadata", "annotations"), ("a",)),
    "extraEnv": ([{"name": "A", "value": "1"}], [{"name": "A", "value": "2"}], (*CONTAINER, "env"), (-1,)),
    "extraVolumes": (
        [{"name": "one", "emptyDir": {}}],
        [{"name": "other", "emptyDir": {}}],
        (*POD, "volumes"),
        (-1,),
    ),
    "extraVolumeMounts": (
        [{"name": "programs", "mountPath": "/one", "readOnly": True}],
        [{"name": "programs", "mountPath": "/other", "readOnly": True}],
        (*CONTAINER, "volumeMounts"),
        (-1,),
    ),
}
# Every part switched on, recoveries on a schedule, and nothing else set that all jobs may have.
ALL_JOBS = {key: value for key, value in BASE.items() if key != "jobDefaults"}


def _at(thing: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        thing = thing[step] if isinstance(step, int) else thing.get(step)
    return thing


def _shown(values: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """What each CronJob has at a place."""
    return {job["metadata"]["name"]: _at(job["spec"], path) for job in render(values).of_kind("CronJob")}


def test_every_key_of_all_jobs_is_tried() -> None:
    assert SHOWN.keys() == JOB.keys()


@pytest.mark.parametrize("key", SHOWN)
def test_all_jobs_take_a_default_that_each_job_may_replace(key: str) -> None:
    common, own, path, part = SHOWN[key]
    defaults = {"jobDefaults": {key: common}}
    shown = _shown(merge_values(ALL_JOBS, defaults), (*path, *part))
    assert shown.keys() == SECTION_OF.keys()
    for job, value in shown.items():
        assert value == _at(DEFAULTS[SECTION_OF[job]].get(key, common), part), job
    sections = {name: {key: own} for name in SECTIONS}
    for job, value in _shown(merge_values(ALL_JOBS, defaults, sections), (*path, *part)).items():
        assert value == _at(own, part), job


def test_a_setting_of_one_job_is_of_that_job_alone() -> None:
    own = {name: {"nodeSelector": {name: "here"}} for name in SECTIONS}
    shown = _shown(merge_values(ALL_JOBS, own), (*POD, "nodeSelector"))
    assert shown == {job: {section: "here"} for job, section in SECTION_OF.items()}


def test_maps_are_merged_key_by_key_and_lists_are_replaced() -> None:
    values = {
        "jobDefaults": {
            "nodeSelector": {"disk": "ssd", "zone": "a"},
            "tolerations": [{"key": "a", "operator": "Exists"}],
        },
        "postgresBackupHourly": {"nodeSelector": {"zone": "b"}, "tolerations": []},
    }
    pod = _at(render(values).get("CronJob", "postgres-backup-hourly")["spec"], POD)
    assert pod["nodeSelector"] == {"disk": "ssd", "zone": "b"}
    assert "tolerations" not in pod


@pytest.mark.parametrize("executable", ["helm", "helm3"])
def test_a_job_without_a_limit_of_all_jobs_says_null(executable: str) -> None:
    values = {"postgresBackupHourly": {"resources": {"limits": {"cpu": None}}}}
    job = render(values, helm=BIN / executable).get("CronJob", "postgres-backup-hourly")
    assert _at(job["spec"], (*CONTAINER, "resources")) == {
        "requests": {"cpu": "500m", "memory": "256Mi"},
        "limits": {"memory": "1Gi"},
    }


# -- a broken chart is found ---------------------------------------------------------------------------------


@pytest.fixture
def spare(chart: Path) -> Path:
    """The chart with one more default, `spare`, that no template reads."""
    with (chart / "values.yaml").open("a", encoding="utf-8") as defaults:
        defaults.write("spare: 1\n")
    return chart


def test_a_default_that_the_schema_does_not_know_is_found(spare: Path) -> None:
    assert ("spare",) in set(default_keys(load_values(spare / "values.yaml"), load(spare))) - set(
        nodes(load(spare))
    )
    with pytest.raises(RenderError, match="'spare'"):
        render(chart=spare)


def test_a_value_that_no_template_reads_is_found(spare: Path) -> None:
    schema = json.loads((spare / "values.schema.json").read_text(encoding="utf-8"))
    schema["properties"]["spare"] = {"type": "integer"}
    (spare / "values.schema.json").write_text(json.dumps(schema), encoding="utf-8")
    assert _objects({"spare": 2}, spare) == _objects({}, spare)
    assert _objects({"postgresBackupHourly": {"keep": 2}}, spare) != _objects({}, spare)


def test_an_undocumented_default_is_found(spare: Path) -> None:
    assert _undocumented((spare / "values.yaml").read_text(encoding="utf-8")) == ["spare"]


@pytest.mark.parametrize("text", ["$", "$$", "$(HOME)", "$$(HOME)", "a$1$$b$(c"])
def test_no_dollar_of_a_value_is_the_kubelet_s(text: str) -> None:
    """What a program is given is what the value says."""
    values = {"offsite": {"remote": f"s3:{text}"}, "mediaReplicator": {"exclude": [text]}}
    objects = render(merge_values(STACKS["ci/everything"][0], values), namespace=NAMESPACE)
    for job, name, expected in (("offsite", "REMOTE", f"s3:{text}"), ("media-replicator", "EXCLUDE", text)):
        spec = objects.get("CronJob", job)["spec"]["jobTemplate"]["spec"]
        (given,) = [
            one["value"] for one in spec["template"]["spec"]["containers"][0]["env"] if one["name"] == name
        ]
        assert expand(given, {"HOME": "/tmp"}) == expected == variables(spec)[name]


def test_no_number_is_written_with_an_exponent() -> None:
    """Helm reads a number of a file as a float, whose text from a million on would be `1.2096e+06`."""
    schema = nodes(SCHEMA)
    large = {key: 2_000_000 for key in KEYS if schema[key].get("maximum", 0) > 2_000_000}
    assert ("databaseRecovery", "keepFormerSeconds") in large
    text = template(merge_values(BASE, *(nested(key, value) for key, value in large.items())), NAMESPACE)
    assert text.count("2000000") >= len(large)
    assert not re.findall(r".*\de\+\d.*", text)
