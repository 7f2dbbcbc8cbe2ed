"""Who ended each connection to a server, from the packets alone: what tcpdump captured, by sequence and acknowledgement
numbers. Times play no part: a FIN that acknowledges the other one was sent after it, and two that do not acknowledge each
other crossed."""

import struct
import subprocess
import time
from collections import Counter

FIN, SYN, RST, ACK = 1, 2, 4, 16


class Tcpdump:
    """Captures what begins and ends connections to a port of the loopback into a file."""

    def __init__(self, program, port, path):
        flags = f"tcp port {port} and tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0"
        command = [program, "-i", "lo", "-n", "-s", "96", "-B", "262144", "-w", str(path), flags]
        self.path, self.port = path, port
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        # It says that it listens once it does.
        while "listening on" not in self.process.stderr.readline():
            if self.process.poll() is not None:
                raise RuntimeError("tcpdump did not start")

    def stop(self):
        """Ends it; verdicts of all connections, counted, and how many packets the kernel dropped."""
        time.sleep(0.5)
        self.process.terminate()
        said = self.process.communicate()[1]
        lost = next(int(line.split()[0]) for line in said.splitlines() if "dropped by kernel" in line)
        return Counter(verdicts(self.path.read_bytes(), self.port)), lost


class Connection:
    """What is known of one: sequence and acknowledgement number of each side's first FIN, and who reset."""

    def __init__(self):
        self.fins = {}
        self.resets = set()

    def verdict(self):
        """As docs/verdicts.md has it, from the server's sight; None: it did not end."""
        if "client" in self.fins and "server" in self.fins:
            (client, client_saw), (server, server_saw) = self.fins["client"], self.fins["server"]
            if after(client_saw, server):
                return "app"
            return "peer" if after(server_saw, client) else "both"
        if self.fins:
            return "app" if "server" in self.fins else "peer"
        if self.resets:
            return "peer-reset" if "client" in self.resets else "app-reset"
        return None


def after(acknowledged, sequence):
    """Does an acknowledgement number cover a sequence number, modulo 2^32?"""
    return 0 < (acknowledged - sequence) & 0xFFFFFFFF < 0x80000000


def verdicts(pcap, port):
    """The verdict of each connection in a capture of Ethernet frames (pcap's format, version 2.4) that ended."""
    connections = {}
    for side, other, flags, sequence, acknowledged in packets(pcap, port):
        if flags & SYN and not flags & ACK:
            # A SYN that is sent again is of the same connection.
            old = connections.get(other)
            if old is not None and (old.fins or old.resets):
                yield old.verdict()
            connections[other] = Connection()
        known = connections.get(other)
        if known is None:
            continue
        if flags & RST:
            known.resets.add(side)
        elif flags & FIN:
            known.fins.setdefault(side, (sequence, acknowledged))
    yield from filter(None, (c.verdict() for c in connections.values()))


def packets(pcap, port):
    """Who sent it, the client's port, flags, the number of the last byte that it has, acknowledgement number."""
    if struct.unpack_from("<I", pcap)[0] not in (0xA1B2C3D4, 0xA1B23C4D) or struct.unpack_from("<I", pcap, 20)[0] != 1:
        raise RuntimeError("not a capture of Ethernet frames in this machine's byte order")
    at = 24
    while at + 16 <= len(pcap):
        (length,) = struct.unpack_from("<I", pcap, at + 8)
        ip = at + 16 + 14
        at += 16 + length
        tcp = ip + 4 * (pcap[ip] & 15)
        (total,) = struct.unpack_from(">H", pcap, ip + 2)
        source, target, sequence, acknowledged, header, flags = struct.unpack_from(">HHIIBB", pcap, tcp)
        data = total - (tcp - ip) - 4 * (header >> 4)
        side, other = ("server", target) if source == port else ("client", source)
        yield side, other, flags, (sequence + data) & 0xFFFFFFFF, acknowledged
