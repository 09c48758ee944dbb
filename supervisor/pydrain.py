# The drain of programs of Python, as worker/httpserve does it: gunicorn's gthread and uvicorn.
# PYTHONPATH has Python read this file, as sitecustomize, in a worker and all that it starts
# (presets gunicorn and uvicorn). It does nothing where neither server is imported.
import os
import sys
from time import monotonic

timeout = float(os.environ.get("FORKD_DRAIN_TIMEOUT", 0))  # seconds until forkd kills


def end():
    """When idle connections are closed: late, or after the idle time where the app stops."""
    return monotonic() + (float(os.environ["FORKD_DRAIN_IDLE"]) if stopping() else timeout * 0.9)


def stopping():
    """Whether the whole app stops, from the page of the worker, which leads this session (ipc.Page)."""
    try:
        path = "/proc/%d/fd/%s" % (os.getsid(0), os.environ.get("FORKD_PAGE_FD"))
        if not os.readlink(path).startswith("/memfd:forkd-page"):
            return False
        with open(path, "rb") as page:
            page.seek(328)
            return any(page.read(4))
    except OSError:
        return False


def worker(module):
    init_process = module.Worker.init_process

    def init(self):
        global timeout
        timeout = min(timeout, self.cfg.graceful_timeout)  # then gunicorn kills
        init_process(self)

    module.Worker.init_process = init


def gthread(module):
    class Drain(module.ThreadWorker):
        drain = None

        def handle_exit(self, sig, frame):
            if self.drain is None:
                self.max_keepalived = 0  # each response closes its connection
                self.drain = end()

        def notify(self):  # once in each turn of the loop
            super().notify()
            if self.drain is None:
                return
            for sock in self.sockets:
                if sock in self.poller.get_map():
                    self.poller.unregister(sock)
            if self.nr_conns <= 0 or monotonic() >= self.drain:
                self.alive = False

    if not hasattr(Drain, "set_accept_enabled"):  # since gunicorn 24 it drains by itself
        module.ThreadWorker = Drain


def config(module):
    load = module.Config.load

    def load_app(self):
        load(self)
        app = self.loaded_app

        async def drain(scope, receive, send):
            async def last(message):
                if self.drains and message["type"] == "http.response.start":
                    message = dict(message, headers=[*message.get("headers", ()), (b"connection", b"close")])
                await send(message)

            await app(scope, receive, last if scope["type"] == "http" else send)

        self.loaded_app = drain

    module.Config.drains, module.Config.load = False, load_app


def server(module):
    shutdown = module.Server.shutdown

    async def drain(self, sockets=None):
        from asyncio import sleep

        self.config.drains = True
        try:
            for one in [*self.servers, *(sockets or ())]:
                one.close()
            until = end()
            while self.server_state.connections and not self.force_exit and monotonic() < until:
                await sleep(0.05)
        except AttributeError as why:
            sys.stderr.write("forkd: uvicorn does not drain: %r\n" % why)
        await shutdown(self, sockets=sockets)

    module.Server.shutdown = drain


class Finder:
    """Finder has a module changed when it is imported."""

    changes = {
        "gunicorn.workers.base": worker,
        "gunicorn.workers.gthread": gthread,
        "uvicorn.config": config,
        "uvicorn.server": server,
    }

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        change = cls.changes.pop(name, None)
        if change is None:
            return None
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            if module.__name__ != name:  # an archive has one loader
                return
            try:
                change(module)
            except Exception as why:  # a version that this file does not know
                sys.stderr.write("forkd: %s will not drain: %r\n" % (name, why))

        spec.loader.exec_module = exec_module
        return spec


def rest():
    """Go on as without this file: the sitecustomize that it hides runs."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(__file__)
    sys.path[:] = [path for path in sys.path if path != here]
    spec = PathFinder.find_spec("sitecustomize")
    if spec is not None:
        sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])


if timeout > 0:
    sys.meta_path.insert(0, Finder)
rest()
