"""An independent client of the services beside xDS, for tests/real/status.rs.

    status_client.py TARGET [CA CERT KEY]

Lists the services by reflection, reads the descriptor of the one for client
status from there, and asks it: by the unary method and on a stream, with and
without contents, for one node and for all. Prints one JSON object.
"""

import json
import sys

import grpc
import grpc_csds  # the package's own servicer: the same interface, the other end
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from google.protobuf import descriptor_pb2, json_format
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

# Messages within an Any can only be shown by who has their types.
import envoy.config.cluster.v3.cluster_pb2  # noqa: F401
import envoy.config.endpoint.v3.endpoint_pb2  # noqa: F401
import envoy.config.listener.v3.listener_pb2  # noqa: F401
import envoy.config.route.v3.route_pb2  # noqa: F401
import envoy.extensions.filters.http.router.v3.router_pb2  # noqa: F401
import envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2  # noqa: F401
import envoy.extensions.transport_sockets.tls.v3.tls_pb2  # noqa: F401
import envoy.extensions.transport_sockets.tls.v3.secret_pb2  # noqa: F401

STATUS = "envoy.service.status.v3.ClientStatusDiscoveryService"
LIMIT = 10


def channel(target, *files):
    if not files:
        return grpc.insecure_channel(target)
    ca, certificate, key = (open(file, "rb").read() for file in files)
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.secure_channel(target, credentials, (("grpc.ssl_target_name_override", "outpost.test"),))


def reflect(to):
    stub = reflection_pb2_grpc.ServerReflectionStub(to)
    asks = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=STATUS),
    ]
    listed, file = stub.ServerReflectionInfo(iter(asks), timeout=LIMIT)
    descriptors = [
        descriptor_pb2.FileDescriptorProto.FromString(each)
        for each in file.file_descriptor_response.file_descriptor_proto
    ]
    methods = [
        method.name
        for each in descriptors
        for service in each.service
        if f"{each.package}.{service.name}" == STATUS
        for method in service.method
    ]
    return [each.name for each in listed.list_services_response.service], methods


def request(node=None, bare=False):
    asked = csds_pb2.ClientStatusRequest(exclude_resource_contents=bare)
    if node:
        asked.node_matchers.add().node_id.exact = node
    return asked


def shown(response):
    return json_format.MessageToDict(response)


def main(target, *files):
    assert issubclass(grpc_csds.ClientStatusDiscoveryServiceServicer, csds_pb2_grpc.ClientStatusDiscoveryServiceServicer)
    with channel(target, *files) as to:
        services, methods = reflect(to)
        stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(to)
        streamed = list(stub.StreamClientStatus(iter([request("n1"), request("nobody")]), timeout=LIMIT))
        answers = {
            "services": services,
            "methods": methods,
            "all": shown(stub.FetchClientStatus(request(), timeout=LIMIT)),
            "bare": shown(stub.FetchClientStatus(request("n1", bare=True), timeout=LIMIT)),
            "streamed": [shown(each) for each in streamed],
        }
    print(json.dumps(answers))


main(*sys.argv[1:])
