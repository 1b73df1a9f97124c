"""`python -m stack_backup_lab.capacity VALUES… [dumpSize=5Gi]`: what the volumes of a stack need.

`--write` renews the table of production in docs/capacity.md. The rules are those of templates/validate.yaml.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import CHART, RenderError, merge_values

UNITS = {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "": 1,
}
TIMES = "\N{MULTIPLICATION SIGN}"
PAGE = PROJECT / "docs" / "capacity.md"
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(?=<!-- end of the table -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """What one volume needs for dumps of `dump` bytes: `times` of them, rounded as the chart does."""

    value: str
    """Where its size stands in the values."""
    rule: str
    needs: int
    has: int

    @property
    def enough(self) -> bool:
        return self.has >= self.needs


def size_of(text: str | int) -> int:
    """Bytes of a Kubernetes quantity. Raises ValueError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGTP]i|[kMGTP]|)", str(text))
    if found is None or not float(found[1]):
        raise ValueError(f"{text!r} is not a size such as 120Gi.")
    return int(float(found[1]) * UNITS[found[2]])


def rows(values: Mapping[str, Any]) -> Iterator[Row]:
    """Of the volumes that jobs of these values use, defaults filled in."""
    dump = size_of(values["postgresBackupHourly"]["dumpSize"])
    volumes = values["volumes"]

    def dumps(volume: str, keeps: list[int]) -> Row:
        rule = f"1.3 {TIMES} ({' + '.join(map(str, keeps))} + 1) {TIMES} dump"
        needs = dump * (sum(keeps) + 1) * 13 // 10
        return Row(f"volumes.{volume}.size", rule, needs, size_of(volumes[volume]["size"]))

    if values["postgresBackupHourly"]["enabled"]:
        tiers = values["postgresBackupTiers"]
        further = [tiers[tier]["keep"] for tier in ("daily", "weekly", "monthly")] if tiers["enabled"] else []
        yield dumps("databaseBackup", [values["postgresBackupHourly"]["keep"], *further])
    if values["postgresReplicatorBackup"]["enabled"]:
        yield dumps("databaseReplica", [values["postgresReplicatorBackup"]["keep"]])
    for name, times in scratch(values):
        own: Any = values
        for step in name.split("."):
            own = own[step]
        if own["enabled"]:
            rule = "dump" if times == 1 else f"{times} {TIMES} dump"
            yield Row(f"{name}.scratch.size", rule, times * dump, size_of(own["scratch"]["size"]))


def scratch(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The jobs with scratch space for dumps, and how many times a dump they need."""
    yield "databaseRecovery", 1
    yield "databaseDrill", 9 if values["databaseDrill"]["source"] == "offsite" else 8
    yield "postgresReplicatorBackup.sanitise", 8


def table(values: Mapping[str, Any]) -> str:
    """As Markdown."""
    lines = [
        "| Value | Needs at least | That is | The values ask for | Enough for dumps of up to |",
        5 * "| --- " + "|",
    ]
    dump = size_of(values["postgresBackupHourly"]["dumpSize"])
    for row in rows(values):
        most = shown(row.has * dump // row.needs) + ("" if row.enough else " (too small)")
        lines.append(f"| `{row.value}` | {row.rule} | {shown(row.needs)} | {shown(row.has)} | {most} |")
    return "\n".join(lines) + "\n"


def shown(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def page(text: str) -> str:
    """The page with its tables as its values files are now."""
    return TABLE.sub(lambda found: found[1] + table(computed(PROJECT / found[2])), text)


def computed(*layers: Path | Mapping[str, Any]) -> dict[str, Any]:
    return merge_values(CHART / "values.yaml", *layers)


def main(arguments: list[str]) -> str:
    if arguments == ["--write"]:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return ""
    layers: list[Path | Mapping[str, Any]] = []
    for argument in arguments:
        name, equals, size = argument.partition("=")
        if equals and name != "dumpSize":
            raise ValueError(f"{name} is not known: give files of values, and dumpSize=5Gi or the like.")
        layers.append({"postgresBackupHourly": {"dumpSize": size}} if equals else Path(argument))
    return table(computed(*layers))


if __name__ == "__main__":
    try:
        sys.stdout.write(main(sys.argv[1:]))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}.")
    except (ValueError, RenderError, yaml.YAMLError) as error:
        sys.exit(str(error))
