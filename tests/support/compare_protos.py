"""Compares our protobuf subset with the public API, as xds-protos has it.

    compare_protos.py DESCRIPTOR_SET

Every field must exist there under the same number, name and type, and every
enum value under the same number. Prints the number of fields compared.
"""

import importlib
import pkgutil
import sys

from google.protobuf import descriptor_pb2, descriptor_pool

import envoy.admin
import envoy.config
import envoy.extensions.filters.http
import envoy.extensions.filters.network.http_connection_manager
import envoy.extensions.transport_sockets.tls
import envoy.service
import envoy.type
import udpa.type
import xds.type

PACKAGES = (
    envoy.admin,
    envoy.config,
    envoy.extensions.filters.http,
    envoy.extensions.filters.network.http_connection_manager,
    envoy.extensions.transport_sockets.tls,
    envoy.service,
    envoy.type,
    udpa.type,
    xds.type,
)
pool = descriptor_pool.Default()


def load():
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=lambda name: None):
            if module.name.endswith("_pb2"):
                try:
                    importlib.import_module(module.name)
                except ImportError:
                    pass  # an extension that needs packages we do not install


def check_message(package, message):
    name = f"{package}.{message.name}"
    theirs = pool.FindMessageTypeByName(name)
    for field in message.field:
        yield check_field(name, field, theirs.fields_by_number.get(field.number))
    for enum in message.enum_type:
        yield from check_enum(name, enum)
    for nested in message.nested_type:
        yield from check_message(name, nested)


def check_field(message, ours, theirs):
    if theirs is None:
        return f"{message}.{ours.name}: no field {ours.number}"
    kind = theirs.message_type or theirs.enum_type
    same = (
        theirs.name == ours.name
        and theirs.type == ours.type
        and theirs.is_repeated == (ours.label == ours.LABEL_REPEATED)
        and ours.type_name.lstrip(".") == (kind.full_name if kind else "")
    )
    return None if same else f"{message}.{ours.name}: differs from {theirs.name} {theirs.number}"


def check_enum(package, enum):
    theirs = pool.FindEnumTypeByName(f"{package}.{enum.name}")
    for value in enum.value:
        known = theirs.values_by_name.get(value.name)
        same = known is not None and known.number == value.number
        yield None if same else f"{package}.{enum.name}.{value.name}: {value.number}"


def main(path):
    load()
    with open(path, "rb") as file:
        files = descriptor_pb2.FileDescriptorSet.FromString(file.read()).file
    results = []
    for file in files:
        if file.package.startswith("envoy."):
            for message in file.message_type:
                results += check_message(file.package, message)
            for enum in file.enum_type:
                results += check_enum(file.package, enum)
    wrong = [result for result in results if result]
    print("\n".join(wrong) if wrong else len(results))
    sys.exit(1 if wrong else 0)


main(sys.argv[1])
