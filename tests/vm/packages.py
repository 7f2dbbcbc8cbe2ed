"""Debian's packages, by apt and dpkg-deb alone, unpacked aside: nothing is installed, the machine's apt is only read."""

import fcntl
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# A release that apt does not know has no sources; the rest of the list still works.
SUITES = "bullseye bookworm bookworm-backports trixie trixie-backports sid experimental".split()
SECURITY = "bullseye-security bookworm-security trixie-security".split()
# Old builds stay in a suite's index after their files went: so many are tried.
TRIES = 3
PATIENCE = 300


class Missing(Exception):
    """What cannot be had, and why."""


def run(*command, **more):
    """The standard output of a command that must work."""
    done = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, **more
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(f"{command[0]} {command[-1]}: {said[-1] if said else f'status {done.returncode}'}")
    return done.stdout


def mirrors():
    """The archive and the security archive that this machine's own apt sources name."""
    archive = security = None
    listed = run("apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI) $(RELEASE)")
    for line in listed.splitlines():
        kind, uri, release = line.split()
        if kind != "Packages":
            continue
        if release.split("-")[0] in {suite.split("-")[0] for suite in SUITES}:
            if release.endswith("-security"):
                security = uri
            elif archive is None:
                archive = uri
    if archive is None:
        raise Missing("this machine's apt sources name no Debian archive")
    return archive, security


class Packages:
    """A cache folder with its own apt lists, and what was unpacked there."""

    def __init__(self, cache, refresh=False):
        self.cache = cache
        self.refresh = refresh
        self.lists = None
        cache.mkdir(parents=True, exist_ok=True)
        # Held to the end of the process: two runs shall not unpack into one folder.
        self.lock = open(cache / "lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def unlock(self):
        fcntl.flock(self.lock, fcntl.LOCK_UN)

    def apt(self, *words, **more):
        """Runs one of apt's commands with the lists of all suites. They are fetched when first needed."""
        if self.lists is None:
            self.lists = self.fetch_lists()
        if isinstance(self.lists, Missing):
            raise self.lists
        return run(*words, env=self.environment(), **more)

    def environment(self):
        return {**os.environ, "APT_CONFIG": str(self.cache / "apt" / "apt.conf"), "LC_ALL": "C"}

    def fetch_lists(self):
        """True, or why there are none."""
        folder = self.cache / "apt"
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        try:
            archive, security = mirrors()
        except (Missing, OSError) as error:
            return error if isinstance(error, Missing) else Missing(f"apt-get: {error}")
        signed = f"[signed-by={KEYRING}] " if Path(KEYRING).exists() else ""
        sources = [f"deb {signed}{archive} {suite} main" for suite in SUITES]
        if security:
            sources += [f"deb {signed}{security} {suite} main" for suite in SECURITY]
        (folder / "sources.list").write_text("\n".join(sources) + "\n")
        (folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{folder}/sources.list";\nDir::Etc::sourceparts "-";\n'
            f'Dir::State::lists "{folder}/lists";\nDir::Cache "{folder}/cache";\n'
            # The machine's own list of what is installed, to be read only: nothing is installed by this.
            'Dir::State::status "/var/lib/dpkg/status";\n'
            'Acquire::Languages "none";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";\n'
        )
        # Its status tells of any one suite that failed; what matters is what is known afterwards.
        command = ["apt-get", "update", "-q"]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=PATIENCE)
        if not any((folder / "lists").glob("*_Packages*")):
            why = [line for line in (done.stdout + done.stderr).splitlines() if re.match("(E|W|Err)", line)]
            return Missing(f"apt-get update: {why[0] if why else 'no lists came'}")
        return True

    def download(self, names, folder):
        """Downloads the packages NAMES and unpacks them into FOLDER."""
        debs = self.cache / "debs"
        shutil.rmtree(debs, ignore_errors=True)
        debs.mkdir()
        self.apt("apt-get", "download", "-q", *names, cwd=debs)
        unpack(debs, folder)

    def kernel(self, version):
        """The newest cloud kernel VERSION ("6.1"): its release, its image and the folder of its modules."""
        folder = self.cache / f"kernel-{version}"
        if self.refresh or not folder.exists():
            self.fetch_kernel(version, folder)
        modules = next(folder.glob("lib/modules/*"), None) or next(folder.glob("usr/lib/modules/*"))
        image = folder / "boot" / f"vmlinuz-{modules.name}"
        # Since 7.0 it lies among the modules.
        return modules.name, image if image.exists() else modules / "vmlinuz", modules

    def fetch_kernel(self, version, folder):
        all_names = set(self.apt("apt-cache", "pkgnames", "linux-").split())
        names = [name for name in all_names if name.startswith(f"linux-image-{version}.")]
        names = [name for name in names if name.endswith(f"-cloud-{architecture()}")]
        if not names:
            raise Missing(f"no suite has linux-image-{version}.*-cloud-{architecture()}")
        newest = self.versions(names)
        names.sort(key=newest.get, reverse=True)
        why = None
        for name in names[:TRIES]:
            release = name.removeprefix("linux-image-")
            # Since 7.0 the image and the modules are packages of their own.
            parts = [f"linux-{part}-{release}" for part in ("image", "binary", "modules")]
            known = [part for part in parts if part in all_names]
            half = self.cache / "kernel.half"
            shutil.rmtree(half, ignore_errors=True)
            try:
                self.download(known, half)
            except Missing as error:
                why = error
                continue
            shutil.rmtree(folder, ignore_errors=True)
            half.rename(folder)
            return
        raise Missing(f"{names[0]}: {why}")

    def versions(self, names):
        """The versions of packages in a form to sort by: a backport ("~") is older than what it was made from."""
        shown = self.apt("apt-cache", "show", *names)
        newest = {}
        for name, version in re.findall(r"^Package: (\S+)$.*?^Version: (\S+)$", shown, re.M | re.S):
            proper, tilde, _ = version.partition("~")
            key = [int(number) for number in re.findall(r"\d+", proper)], not tilde
            newest[name] = max(key, newest.get(name, key))
        return newest

    def qemu(self):
        """The words that start qemu, and its environment."""
        name = f"qemu-system-{platform.machine()}"
        if installed := shutil.which(name):
            return [installed], {}
        folder = self.cache / "qemu"
        if not folder.exists():
            self.fetch_qemu(folder)
        shared = folder / "usr/share"
        libraries = sorted({str(path.parent) for path in folder.rglob("lib*.so*")})
        words = [str(folder / "usr/bin" / name)]
        for data in ("qemu", "seabios"):
            words += ["-L", str(shared / data)]
        return words, {"LD_LIBRARY_PATH": ":".join(libraries)}

    def fetch_qemu(self, folder):
        """Unpacks qemu and all that it would bring, for this machine's release. (Installing it may remove others.)"""
        codename = re.search("^VERSION_CODENAME=(.*)$", Path("/etc/os-release").read_text(), re.M)
        debs = self.cache / "debs"
        shutil.rmtree(debs, ignore_errors=True)
        (debs / "partial").mkdir(parents=True)
        chosen = ["-o", f"APT::Default-Release={codename[1] if codename else ''}", "-o", f"Dir::Cache::archives={debs}"]
        options = ["-q", "-y", "--no-install-recommends", "--download-only", *chosen]
        self.apt("apt-get", "install", *options, f"qemu-system-{'x86' if architecture() == 'amd64' else 'arm'}")
        unpack(debs, folder)

    def busybox(self):
        """A busybox that needs no libraries."""
        path = self.cache / "busybox" / "bin" / "busybox"
        merged = self.cache / "busybox" / "usr" / "bin" / "busybox"
        if not path.exists() and not merged.exists():
            self.download(["busybox-static"], self.cache / "busybox")
        return path if path.exists() else merged


def architecture():
    """This machine's, in Debian's words."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def unpack(debs, folder):
    """Unpacks all packages in DEBS into FOLDER, as a whole or not at all, and deletes them."""
    half = folder.with_name(folder.name + ".unpacking")
    shutil.rmtree(half, ignore_errors=True)
    found = sorted(debs.glob("*.deb"))
    if not found:
        raise Missing(f"no package came for {folder.name}")
    for deb in found:
        run("dpkg-deb", "-x", deb, half)
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)
    shutil.rmtree(debs)
