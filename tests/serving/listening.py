"""A server of `keras-sgdr serve` on a real socket, in a thread."""

import contextlib
import threading
import time

import uvicorn


@contextlib.contextmanager
def listening(server):
    """Its address, without a slash at the end."""
    running = uvicorn.Server(uvicorn.Config(server.app(), port=0, log_config=None))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join()
