"""A WSGI application. Its answer begins with the pid of the worker that gave it.

    forkd run -- gunicorn -b 127.0.0.1:8000 app:app
"""
import os


def app(environ, start_response):
    body = b"%d says hello\n" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
