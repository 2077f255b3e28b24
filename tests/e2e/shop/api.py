"""The shop's api: each request is noted in the cache and read from the database; waits out their absence."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

import psycopg2
import redis

T = TypeVar("T")
PATIENCE = 15.0


def insisted(deed: Callable[[], T]) -> T:
    """What the deed returns, tried again while a neighbour is made anew."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return deed()
        except (redis.RedisError, psycopg2.Error, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def note() -> None:
    redis.Redis(host="memory", socket_timeout=2, socket_connect_timeout=2).incr("requests")


def goods() -> str:
    connection = psycopg2.connect(host="database", user="postgres", connect_timeout=2)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT name FROM goods")
            return ",".join(name for (name,) in cursor.fetchall())
    finally:
        connection.close()


def stock() -> None:
    connection = psycopg2.connect(host="database", user="postgres", connect_timeout=2)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(1)")
            cursor.execute("CREATE TABLE IF NOT EXISTS goods (name text PRIMARY KEY)")
            cursor.execute("INSERT INTO goods VALUES ('anchor') ON CONFLICT DO NOTHING")
    finally:
        connection.close()


class Api(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        insisted(note)
        body = insisted(goods).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The log is for failures."""


if __name__ == "__main__":
    insisted(stock)
    sys.stderr.write("serving\n")
    ThreadingHTTPServer(("", 8000), Api).serve_forever()
