"""Both ends of a gRPC call, for tests/support/grpc.rs. Ends with its standard input.

    grpc_peer.py serve NAME...    one server for each name; prints NAME PORT
    grpc_peer.py call TARGET      calls without end; prints what each call got
"""

import os
import sys
import threading
import time
from concurrent import futures

import grpc

METHOD = "/outpost.test.Who/AreYou"
# Between two calls of the client, in seconds.
EVERY = 0.01


def say(*words):
    print(*words, flush=True)


def serve(name):
    answer = name.encode()
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    say(name, server.add_insecure_port("127.0.0.1:0"))
    server.start()
    return server


def call(target):
    ask = grpc.insecure_channel(target).unary_unary(METHOD)
    while True:
        try:
            say("ok", ask(b"", timeout=5).decode())
        except grpc.RpcError as error:
            say("failed", error.code().name, (error.details() or "").replace("\n", " "))
        time.sleep(EVERY)


def main(verb, *words):
    if verb == "serve":
        kept = [serve(name) for name in words]
    else:
        threading.Thread(target=call, args=words, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


main(*sys.argv[1:])
