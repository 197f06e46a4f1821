"""Programs that try to get out of the sandbox. Each comes to its end, and so would pass, only if it succeeds.

`python corpus.py ABI` runs them all with Landlock held to an ABI and prints a JSON object: verdicts by name, and what was
found damaged or left behind. It needs nothing but the sandbox, so that any user can run it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evaluators.sandbox import Limits, run

RAW = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\ndef sys_(*a):\n    r = libc.syscall(*a)\n    if r < 0: raise OSError(ctypes.get_errno(), 'denied')\n    return r\n"

READ = {
    "file of the system": "open('/etc/passwd').read()",
    "file outside": "open({outside!r}).read()",
    "by descriptor": "import os; os.read(os.open({outside!r}, os.O_RDONLY), 1)",
    "list of the root": "import os; os.listdir('/')",
    "list of the home": "import os; os.listdir(os.path.dirname({outside!r}))",
    "environment of the parent": "open('/proc/{parent}/environ', 'rb').read()",
    "environment of a peer": "open('/proc/{peer}/environ', 'rb').read()",
    "memory of the parent": "open('/proc/{parent}/mem', 'rb').read(1)",
    "map of the parent": "open('/proc/{parent}/maps').read()",
    "own process by proc": "open('/proc/self/status').read()",
    "descriptors of the parent": "import os; os.listdir('/proc/{parent}/fd')",
    "working folder of the parent": "import os; os.listdir('/proc/{parent}/cwd')",
    "root of the parent": "open('/proc/{parent}/root/etc/passwd').read()",
    "symlink out": "import os; os.symlink({outside!r}, 'l'); open('l').read()",
    "hard link in": "import os; os.link({outside!r}, 'l'); open('l').read()",
    "dot dot": "open('../' * 20 + 'etc/passwd').read()",
    "change of folder": "import os; os.chdir('/etc'); open('passwd').read()",
    "change of root": "import os; os.chroot('.')",
    "raw open": RAW + "sys_(2, {outside!r}.encode(), 0)",
    "raw openat2": RAW + "how = (ctypes.c_uint64 * 3)(0, 0, 0); sys_(437, -100, {outside!r}.encode(), how, 24)",
    "open by handle": RAW + "sys_(304, -100, ctypes.create_string_buffer(16), 0)",
    "mapping of a device": "import mmap; mmap.mmap(os.open('/dev/mem', os.O_RDONLY), 4096)".replace("import", "import os,"),
    "process_vm_readv": RAW + "sys_(310, {parent}, 0, 0, 0, 0, 0)",
    "ptrace": RAW + "sys_(101, 16, {parent}, 0, 0)",
    "descriptor of a peer": RAW + "sys_(434, {parent}, 0)",
    "kernel log": RAW + "sys_(103, 3, ctypes.create_string_buffer(64), 64)",
    "keyring": RAW + "sys_(250, 0, -3, 0, 0, 0)",
}
WRITE = {
    "file outside": "open({outside!r}, 'w').write('x')",
    "appended": "open({outside!r}, 'a').write('x')",
    "new file beside": "open({outside!r} + '.new', 'w')",
    "new folder": "import os; os.mkdir({outside!r} + '.d')",
    "removed": "import os; os.remove({outside!r})",
    "renamed": "import os; os.rename({outside!r}, {outside!r} + '.moved')",
    "moved in": "import os; os.rename({outside!r}, 'mine')",
    "moved out": "import os; open('mine', 'w'); os.rename('mine', {outside!r})",
    "symlink outside": "import os; os.symlink('x', {outside!r} + '.l')",
    "mode": "import os; os.chmod({outside!r}, 0o777)",
    "owner": "import os; os.chown({outside!r}, 1, 1)",
    "times": "import os; os.utime({outside!r})",
    "attribute": "import os; os.setxattr({outside!r}, 'user.x', b'x')",
    "truncated": "import os; os.truncate({outside!r}, 0)",
    "truncated while reading": "import os; os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)",
    "mode of the jail": "import os; os.chmod('.', 0o777)",
    "device": "import os; os.mknod('d', 0o60600, os.makedev(8, 0))",
    "fifo outside": "import os; os.mkfifo({outside!r} + '.fifo')",
    "the runtime": "open(__import__('os').__file__, 'a')",
    "shared memory": "open('/dev/shm/x', 'w')",
    "mount": RAW + "sys_(165, b'none', b'.', b'tmpfs', 0, 0)",
    "oom score of the parent": "open('/proc/{parent}/oom_score_adj', 'w').write('1000')",
    "limit of the parent": RAW + "sys_(302, {parent}, 4, (ctypes.c_uint64 * 2)(0, 0), 0)",
    "priority of the parent": "import os; os.setpriority(os.PRIO_PROCESS, {parent}, 19)",
    "cores of the parent": "import os; os.sched_setaffinity({parent}, {{0}})",
    "raised limit": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))",
}
SIGNAL = {
    "zero": "import os; os.kill({parent}, 0)",
    "user": "import os, signal; os.kill({parent}, signal.SIGUSR1)",
    "group": "import os, signal; os.killpg(os.getpgid({parent}), signal.SIGUSR1)",
    "everyone": "import os, signal; os.kill(-1, signal.SIGUSR1)",
    "peer": "import os, signal; os.kill({peer}, signal.SIGKILL)",
    "raw tgkill": RAW + "sys_(234, {parent}, {parent}, 10)",
    "raw queue": RAW + "sys_(129, {parent}, 10, ctypes.create_string_buffer(128))",
    "owner of a descriptor": "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, {parent})",
    "pidfd": "import os, signal; signal.pidfd_send_signal(os.pidfd_open({parent}), 0)",
}
PROCESS = {
    "fork": "import os; os.fork() or os._exit(0)",
    "raw fork": RAW + "r = sys_(57); r or os._exit(0)",
    "raw vfork by clone": RAW + "r = sys_(56, 17, 0, 0, 0, 0); r or os._exit(0)",
    "raw clone3": RAW + "a = (ctypes.c_uint64 * 11)(); a[4] = 17; r = sys_(435, a, 88); r or os._exit(0)",
    "fork bomb": "import os\nwhile True: os.fork()",
    "exec": "import os; os.execv('/bin/sh', ['sh', '-c', 'true'])",
    "system": "import os\nassert os.system('true') == 0",
    "subprocess": "import subprocess; subprocess.run(['/bin/true'])",
    "spawn": "import os; os.posix_spawn('/bin/true', ['true'], {{}})",
    "multiprocessing": "import multiprocessing as m; p = m.Process(target=print); p.start(); p.join(); assert p.exitcode == 0",
    "pty": "import pty; pty.fork()",
    "memory file": RAW + "f = sys_(319, b'x', 0); os.execv(f, ['x'])",
    "namespace": RAW + "sys_(272, 0x10000000)",
    "another's namespace": RAW + "sys_(308, 0, 0)",
    "daemon": "import os; os.setsid(); os.fork() or os._exit(0)",
}
NETWORK = {
    "loopback": "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
    "loopback of version 6": "import socket; socket.socket(socket.AF_INET6)",
    "udp": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "unix": "import socket; socket.socket(socket.AF_UNIX).connect({unix!r})",
    "abstract unix": "import socket; socket.socket(socket.AF_UNIX).bind('\\0x')",
    "pair": "import socket; socket.socketpair()",
    "raw": "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "packet": "import socket; socket.socket(socket.AF_PACKET)",
    "vsock": "import socket; socket.socket(socket.AF_VSOCK)",
    "raw socket call": RAW + "sys_(41, 2, 1, 0)",
    "http": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}', timeout=2)",
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(0))",
    "io_uring": RAW + "sys_(425, 8, ctypes.create_string_buffer(120))",
}
KERNEL = {
    "bpf": RAW + "sys_(321, 0, ctypes.create_string_buffer(128), 128)",
    "perf": RAW + "sys_(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "userfaultfd": RAW + "sys_(323, 0)",
    "personality": RAW + "sys_(135, 0x0040000)",
    "module": RAW + "sys_(313, 0, b'', 0)",
    "clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
    "another table of calls": RAW + "sys_(0x40000000 + 39)",
    "a newer call": RAW + "sys_(462, 0, 0, 0)",
    "undoing the death signal": RAW + "\nif libc.prctl(1, 0, 0, 0, 0): raise OSError('denied')",
    "another filter": RAW + "sys_(317, 0, 0, 0)",
    "message queue": RAW + "sys_(68, 0, 0o1600)",
    "shared segment": RAW + "sys_(29, 0, 4096, 0o1600)",
    "user": "import os; os.setuid(0); os.setgroups([0])",
    "capabilities": RAW + "sys_(126, (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6))",
}
FLOOD = {
    "memory": "x = bytearray(8 << 30)",
    "memory in pieces": "x = []\nwhile True: x.append(bytearray(64 << 20))",
    "one large file": "f = open('f', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20)); f.flush()",
    "many files": "i = 0\nwhile True:\n    open(str(i), 'wb').write(bytes(1 << 20)); i += 1",
    "descriptors": "x = []\nwhile True: x.append(open('/dev/null'))",
    "output": "while True: print('x' * 100_000)",
    "errors": "import sys\nwhile True: sys.stderr.write('x' * 100_000)",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
    "threads that outlive": "import threading, time\nfor _ in range(50): threading.Thread(target=time.sleep, args=(60,)).start()\n1 / 0",
    "cpu": "while True: pass",
    "cpu in threads": "import threading\ndef f():\n    while True: pass\n[threading.Thread(target=f).start() for _ in range(4)]\nf()",
    "cpu with a handler": "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass",
    "sleep": "import time; time.sleep(600)",
    "sleep with all closed": "import os, time; os.closerange(0, 60); time.sleep(600)",
    "recursion": "def f(): f()\nf()",
    "a C stack": RAW + "exec('(' * 100_000)",
    "a crash": RAW + "ctypes.string_at(0)",
}
FORGERY = {
    "exit code": "import os; os._exit(0)",
    "exit": "import sys; sys.exit(0)",
    "quit": "raise SystemExit",
    "raw exit": RAW + "sys_(231, 0)",
    "printed word": "print('passed'); assert False",
    "printed json": 'print(\'{{"verdict": "passed"}}\'); assert False',
    "atexit": "import atexit, os; atexit.register(os._exit, 0); assert False",
    "guessed descriptors": "import os, marshal\nfor fd in range(3, 64):\n    try:\n        t = marshal.dumps({{'nonce': b'0' * 16}}); os.write(fd, len(t).to_bytes(4, 'big') + t)\n    except OSError: pass\nassert False",
    "noise on the descriptors": "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\xff' * 70_000)\n    except OSError: pass\nassert False",
    "replaced write": "import os; os.write = lambda *a: 0; assert False",
    "excepthook": "import sys; sys.excepthook = lambda *a: None; assert False",
    "an exception without text": "class E(Exception):\n    def __str__(self): raise E\nraise E",
    "a thread that exits": "import threading, os; threading.Thread(target=os._exit, args=(0,)).start(); import time; time.sleep(5); assert False",
    "a signal handler that exits": "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0)); signal.alarm(1)\nwhile True: pass",
}
# From inside these cannot be told from honest passes: they must be marked instead.
MARKED = {
    "frames": "import sys\nf = sys._getframe()\nwhile f: f = f.f_back",
    "frames by a traceback": "try: 1 / 0\nexcept Exception as e: f = e.__traceback__.tb_frame",
    "equality": "class A:\n    def __eq__(self, other): return True\nassert A() == 3",
    "garbage": "import gc; gc.get_objects()",
    "ctypes": "import ctypes",
    "a hidden name": "import sys; getattr(sys, '_getframe')()",
    "trace": "import sys; sys.settrace(None)",
    "closures": "print((lambda: 0).__globals__)",
    "inspect": "import inspect; inspect.stack()",
    "modules": "import sys; sys.modules['os']",
}
GROUPS = {"read": READ, "write": WRITE, "signal": SIGNAL, "process": PROCESS, "network": NETWORK, "kernel": KERNEL,
          "flood": FLOOD, "forgery": FORGERY, "marked": MARKED}  # fmt: skip


def attack(landlock: int) -> dict:
    """Run the corpus; verdicts and marks by name, and the damage."""
    signals: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: signals.append(number))
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        outside, unix = Path(folder) / "secret", Path(folder) / "socket"
        outside.write_text("secret")
        outside.chmod(0o666)
        before = _state(Path(folder))
        accepted: list[int] = []
        threading.Thread(target=_accept, args=(server, accepted), daemon=True).start()
        peer = subprocess.Popen(["sleep", "600"], env={"SECRET": "x"})
        names = {"outside": str(outside), "unix": str(unix), "parent": os.getpid(), "peer": peer.pid}
        names["port"] = server.getsockname()[1]
        limits = Limits(landlock=landlock, cpu_s=2, wall_s=8)
        jobs = [(f"{g}: {n}", text.format(**names)) for g, programs in GROUPS.items() for n, text in programs.items()]
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda job: run(job[1], limits), jobs))
        damage = ["a connection"] * len(accepted) + ["a signal"] * len(signals)
        damage += [] if _state(Path(folder)) == before else ["the files outside"]
        damage += ["the peer"] if peer.poll() is not None else []
        peer.kill()
        peer.wait()
        damage += [f"a process: {line}" for line in _left()]
    told = {name: [r.verdict, r.reason, list(r.suspicious)] for (name, _), r in zip(jobs, results, strict=True)}
    return {"results": told, "damage": damage}


def _state(folder: Path) -> list:
    return [(p.name, p.stat().st_mode, p.stat().st_uid, p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.iterdir())]


def _accept(server: socket.socket, accepted: list[int]) -> None:
    while True:
        try:
            accepted.append(server.accept()[0].fileno())
        except OSError:
            return


def _left() -> list[str]:
    """Command lines of sandboxed processes of this process that still live."""
    time.sleep(0.5)
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line, parent = status.read_bytes(), (status.parent / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"evaluators.sandbox.inside" in line and parent == str(os.getpid()):
            found.append(line.decode(errors="replace"))
    return found


if __name__ == "__main__":
    print(json.dumps(attack(int(sys.argv[1]))))
