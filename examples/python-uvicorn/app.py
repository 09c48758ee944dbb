"""An ASGI application. Its answer begins with the pid of the worker that gave it.

    forkd run -- uvicorn --port 8000 app:app
"""
import os


async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = b"%d says hello\n" % os.getpid()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
