"""Memory limits by control groups of version 2, on a kernel of its own that has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stack_backup_lab.bed import system

START = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup
{python} {program}
poweroff -f
"""
PROGRAM = """
import subprocess, sys
from stack_backup_lab.runtime import memory
groups = memory.Groups("probe")
group = groups.make("pod", "probe", 32 << 20)
takes = "import time; x = b'1' * (%d << 20); time.sleep(0.5)"
enter = ["/bin/sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group), sys.executable, "-S", "-c"]
meter = memory.Meter(group.parent, [])
for size in (15, 100):
    code = subprocess.run([*enter, takes % size]).returncode
    print("\\nseen:", size, code, memory.killed(group.parent), 15 << 20 < meter.peak < 33 << 20)
meter.stop()
groups.close()
print("seen: left", len(list(groups.folder.parent.glob("*/"))))
"""


def test_a_limit_holds_on_version_2(tmp_path: Path) -> None:
    system.ensure_packages("user-mode-linux")
    program, init = tmp_path / "program.py", tmp_path / "init"
    program.write_text(PROGRAM)
    init.write_text(START.format(python=sys.executable, program=program))
    init.chmod(0o755)
    machine = ["linux.uml", "mem=512M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"]
    shown = subprocess.run(
        [*machine, f"init={init}", "con0=fd:0,fd:1", "con=null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    ).stdout.decode(errors="replace")
    seen = [line.strip() for line in shown.splitlines() if line.startswith("seen:")]
    assert seen == ["seen: 15 0 False True", "seen: 100 -9 True True", "seen: left 0"], shown
