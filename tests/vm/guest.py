"""One guest: what is in it, how it is started, and what it said."""

import lzma
import re
import shutil
import subprocess
import threading
from pathlib import Path

from packages import Missing, run

HERE = Path(__file__).resolve().parent
TARGETS = HERE.parent / "targets"
C = "-O2 -g -Wall -Wextra -pthread -fno-builtin-malloc -fno-builtin-free -fno-builtin-calloc -fno-builtin-realloc".split()
# A case that hangs ends by itself after so many seconds.
CASE_LIMIT = 180


class Case:
    """One script, and what its head says that it needs; tests/vm/README.md has the words."""

    def __init__(self, path):
        self.name = path.stem
        self.path = path
        head = path.read_text()
        self.builds = [line.split() for line in re.findall("^# build: (.*)$", head, re.M)]
        self.programs = self.words("program", head)
        self.modules = self.words("modules", head)
        self.slow = re.search("^# slow$", head, re.M) is not None
        self.tests = self.words("tests", head)
        self.limit = int((re.findall(r"^# limit: (\d+)$", head, re.M) or [CASE_LIMIT])[0])

    @staticmethod
    def words(key, head):
        return [word for line in re.findall(f"^# {key}: (.*)$", head, re.M) for word in line.split()]


class Archive:
    """An initramfs: an uncompressed cpio in its "newc" form (Documentation/driver-api/early-userspace/buffer-format)."""

    def __init__(self):
        self.data = bytearray()
        self.paths = set()

    def folder(self, path):
        if path and path not in self.paths:
            self.folder(path.rpartition("/")[0])
            self.entry(path, 0o040755, b"")

    def file(self, path, data, mode=0o755):
        path = path.lstrip("/")
        if path not in self.paths:
            self.folder(path.rpartition("/")[0])
            self.entry(path, 0o100000 | mode, data)

    def link(self, path, to):
        self.folder(path.rpartition("/")[0])
        self.entry(path, 0o120777, to.encode())

    def entry(self, path, mode, data):
        self.paths.add(path)
        name = path.encode() + b"\0"
        fields = [len(self.paths), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
        self.data += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self.pad()
        self.data += data
        self.pad()

    def pad(self):
        self.data += bytes(-len(self.data) % 4)

    def finish(self):
        self.entry("TRAILER!!!", 0, b"")
        return bytes(self.data)

    def program(self, path, source):
        """A program with the libraries that it is linked with, each where the loader looks for it."""
        self.file(path, Path(source).read_bytes())
        told = subprocess.run(["ldd", str(source)], capture_output=True, text=True)
        for library in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", told.stdout, re.M):
            self.file(library, Path(library).read_bytes())


def contents(cases, uprof, tests, busybox, folder):
    """What every guest has: tools, uprof, the cases and what they need."""
    archive = Archive()
    for name in ("dev", "proc", "sys", "tmp", "root"):
        archive.folder(name)
    archive.file("bin/busybox", busybox.read_bytes())
    archive.link("bin/sh", "busybox")
    archive.file("init", (HERE / "init").read_bytes())
    archive.file("vm/lib.sh", (HERE / "lib.sh").read_bytes())
    stripped = folder / "uprof"
    run("strip", "-o", stripped, uprof)
    archive.program("usr/bin/uprof", stripped)
    for case in cases:
        archive.file(f"vm/cases/{case.name}.sh", case.path.read_bytes())
        archive.file(f"vm/limits/{case.name}", str(case.limit).encode())
        for name, source, *flags in case.builds:
            built = folder / name
            if not built.exists():
                compiler = "g++" if source.endswith(".cc") else "gcc"
                run(compiler, *C, *flags, TARGETS / source, "-o", built)
            archive.program(f"fixtures/{name}", built)
        for name in case.tests:
            stripped = folder / f"test-{name}"
            run("strip", "--strip-debug", "-o", stripped, tests[name])
            archive.program(f"tests/{name}", stripped)
        for name in case.programs:
            found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
            if found is None:
                raise Missing(f"case {case.name} needs {name}, which is not installed")
            archive.program(f"usr/bin/{name}", found)
    return archive.finish()


def modules(wanted, folder):
    """The kernel modules WANTED and what they need, in the order in which they go in. Those that are built in are
    not there: the case sees to what does not work."""
    archive = Archive()
    found = {}
    for path in folder.rglob("*.ko*"):
        found[path.name.split(".")[0].replace("-", "_")] = path
    order = []

    def add(name):
        path = found.get(name.replace("-", "_"))
        if path is None or path in order:
            return
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in depends[1].decode().split(",") if depends else []:
            add(other)
        order.append(path)
        archive.file(f"vm/modules/{len(order):03}-{name}.ko", data, 0o644)

    for name in wanted:
        add(name)
    return archive.finish()


def boot(qemu, kernel, initramfs, limit):
    """Starts a guest, waits for its end and returns what came over its serial line. It is killed after LIMIT s."""
    words, environment = qemu
    command = [
        *words, "-nodefaults", "-no-user-config", "-accel", "tcg,thread=single", "-cpu", "max", "-m", "1024", "-smp", "2",
        "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", str(kernel), "-initrd", str(initramfs),
        "-append", "console=ttyS0 quiet loglevel=1 panic=-1 rdinit=/init",
    ]  # fmt: skip
    # Only qemu gets the libraries that came with it.
    setting = [f"{name}={value}" for name, value in environment.items()]
    guest = subprocess.Popen(
        ["env", *setting, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    clock = threading.Timer(limit, guest.kill)
    clock.start()
    try:
        said = guest.stdout.read().decode(errors="replace").replace("\r", "")
        guest.wait()
    finally:
        clock.cancel()
        guest.kill()
    if guest.returncode < 0:
        said += f"\nLIMIT the guest was ended after {limit} s\n"
    return said


def results(said):
    """{case: (verdict, text, seconds)} of what a guest said, and why it ended early, if it did."""
    found = {}
    for name, seconds, verdict, text in re.findall(r"^CASE (\S+) (\d+) (pass|unsupported|fail) ?(.*)$", said, re.M):
        found[name] = verdict, text, int(seconds)
    if re.search("^END$", said, re.M):
        return found, None
    for why in ("^LIMIT (.*)$", "(Kernel panic.*)$", "^.*(Unable to .*|BUG: .*)$"):
        if told := re.search(why, said, re.M):
            return found, told[1]
    lines = [line for line in said.splitlines() if line.strip()]
    return found, f"the guest ended before its cases did: {lines[-1] if lines else 'it said nothing'}"
