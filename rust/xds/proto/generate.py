"""Makes the one descriptor set that the Rust and the Python side share.

    python -m venv venv && venv/bin/pip install xds-protos==1.85.0 grpcio-tools==1.85.1
    venv/bin/python rust/xds/proto/generate.py            # writes the files below
    venv/bin/python rust/xds/proto/generate.py --check    # fails if they are not what it would write

In: Envoy's messages from ``xds-protos``; Istio's and our own from the ``.proto`` files beside this script;
``supported.txt``, which says what is kept of them.
Out: ``control/xds/proto/envoy.binpb``, a ``FileDescriptorSet`` in dependency order, well-known types included; and
``unsupported.tsv``: message, number and name of every field that was left out, so that whoever meets one in a binary
message can still say its name.

Of the options only the validation rules (``validate.rules``) are kept: both sides check them.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc
from validate import validate_pb2

HERE = Path(__file__).resolve().parent
SET = HERE.parents[2] / "control" / "xds" / "proto" / "envoy.binpb"
UNSUPPORTED = HERE / "unsupported.tsv"
OWN = ("istio/ca.proto", "istio/stats.proto", "pymesh/filters.proto", "pymesh/identity.proto")
OWN_PACKAGES = ("istio.", "pymesh.", "stats.")


def supported() -> dict[str, set[str]]:
    """The list: full name of a message or service -> its kept fields (``*`` for all)."""
    kept: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in (HERE / "supported.txt").read_text().splitlines():
        text = line.partition("#")[0]
        if not text.strip():
            continue
        if text[0].isspace():
            current.update(text.split())
        else:
            current = kept.setdefault(text.strip(), set())
    return kept


def package_of(name: str) -> str:
    """Packages are in lower case, messages are not."""
    return ".".join(part for part in name.split(".") if part[0].islower())


def import_packages(names: Iterator[str]) -> None:
    """Registers the files of these packages in the default pool, by importing their modules."""
    for name in sorted(set(names)):
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__):
            if module.name.endswith("_pb2"):
                importlib.import_module(f"{name}.{module.name}")


def own_files() -> list[FileDescriptorProto]:
    """Our own ``.proto`` files, compiled."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "own.binpb"
        well_known = Path(protoc.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{HERE}", f"-I{well_known}", f"--descriptor_set_out={out}", *OWN]
        if protoc.main(arguments) != 0:
            raise SystemExit("our own proto files do not compile")
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def file_of(name: str) -> FileDescriptorProto:
    """The file that defines the message, enum or service ``name``, from the default pool."""
    copy = FileDescriptorProto()
    descriptor_pool.Default().FindFileContainingSymbol(name).CopyToProto(copy)
    return copy


class Pruner:
    """Copies files, keeping what the list names and the enums that it needs."""

    def __init__(self, kept: dict[str, set[str]]) -> None:
        self.kept = kept
        self.enums: set[str] = set()
        self.left_out: list[tuple[str, int, str]] = []
        self.seen: set[str] = set()

    def file(self, source: FileDescriptorProto) -> FileDescriptorProto:
        pruned = FileDescriptorProto(name=source.name, package=source.package, syntax=source.syntax)
        for message in source.message_type:
            if copy := self.message(message, source.package):
                pruned.message_type.append(copy)
        pruned.enum_type.extend(plain_enum(enum) for enum in source.enum_type)
        for service in source.service:
            name = f"{source.package}.{service.name}"
            if name in self.kept:
                self.seen.add(name)
                copy = pruned.service.add(name=service.name)
                for method in service.method:
                    copy.method.add().CopyFrom(method)
                    copy.method[-1].ClearField("options")
        return pruned

    def message(self, source: DescriptorProto, scope: str) -> DescriptorProto | None:
        name = f"{scope}.{source.name}"
        nested = [copy for inner in source.nested_type if (copy := self.message(inner, name))]
        if name not in self.kept and not source.options.map_entry:
            if nested and not all(inner.options.map_entry for inner in nested):
                raise SystemExit(f"supported.txt: {name} must be listed, because a message within it is")
            return None
        self.seen.add(name)
        wanted = {field.name for field in source.field} if source.options.map_entry else self.kept[name]
        if "*" in wanted:
            wanted = {field.name for field in source.field}
        if missing := wanted - {field.name for field in source.field}:
            raise SystemExit(f"supported.txt: {name} has no field {', '.join(sorted(missing))}")

        pruned = DescriptorProto(name=source.name)
        if source.options.map_entry:
            pruned.options.map_entry = True
        oneofs: dict[int, int] = {}
        for field in source.field:
            if field.name not in wanted:
                self.left_out.append((name, field.number, field.name))
                continue
            copy = pruned.field.add()
            copy.CopyFrom(field)
            copy.ClearField("options")
            if field.options.HasExtension(validate_pb2.rules):
                copy.options.Extensions[validate_pb2.rules].CopyFrom(field.options.Extensions[validate_pb2.rules])
            if field.HasField("oneof_index"):
                if field.oneof_index not in oneofs:
                    oneofs[field.oneof_index] = len(pruned.oneof_decl)
                    original = source.oneof_decl[field.oneof_index]
                    oneof = pruned.oneof_decl.add(name=original.name)
                    if original.options.Extensions[validate_pb2.required]:
                        oneof.options.Extensions[validate_pb2.required] = True
                copy.oneof_index = oneofs[field.oneof_index]
            if field.type == FieldDescriptorProto.TYPE_ENUM:
                self.enums.add(field.type_name.lstrip("."))
        entries = {field.type_name.rpartition(".")[2] for field in pruned.field}
        pruned.nested_type.extend(n for n in nested if not n.options.map_entry or n.name in entries)
        pruned.enum_type.extend(plain_enum(enum) for enum in source.enum_type)
        return pruned


def plain_enum(source: EnumDescriptorProto) -> EnumDescriptorProto:
    """An enum without options."""
    copy = EnumDescriptorProto(name=source.name)
    for value in source.value:
        copy.value.add(name=value.name, number=value.number)
    if source.options.allow_alias:
        copy.options.allow_alias = True
    return copy


def drop_unused_enums(file: FileDescriptorProto, used: set[str]) -> None:
    def prune(holder: FileDescriptorProto | DescriptorProto, scope: str) -> None:
        kept = [enum for enum in holder.enum_type if f"{scope}.{enum.name}" in used]
        del holder.enum_type[:]
        holder.enum_type.extend(kept)
        for message in holder.nested_type if isinstance(holder, DescriptorProto) else holder.message_type:
            prune(message, f"{scope}.{message.name}")

    prune(file, file.package)


def symbols(file: FileDescriptorProto) -> Iterator[str]:
    """Full names that the file defines."""

    def inside(message: DescriptorProto, scope: str) -> Iterator[str]:
        name = f"{scope}.{message.name}"
        yield name
        yield from (f"{name}.{enum.name}" for enum in message.enum_type)
        for inner in message.nested_type:
            yield from inside(inner, name)

    yield from (f"{file.package}.{enum.name}" for enum in file.enum_type)
    for message in file.message_type:
        yield from inside(message, file.package)


def references(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """(who, the full name of what it refers to)."""

    def inside(message: DescriptorProto, scope: str) -> Iterator[tuple[str, str]]:
        name = f"{scope}.{message.name}"
        for field in message.field:
            if field.type_name:
                yield f"{name}.{field.name}", field.type_name.lstrip(".")
        for inner in message.nested_type:
            yield from inside(inner, name)

    for message in file.message_type:
        yield from inside(message, file.package)
    for service in file.service:
        for method in service.method:
            for name in (method.input_type, method.output_type):
                yield f"{file.package}.{service.name}.{method.name}", name.lstrip(".")


def well_known(name: str) -> FileDescriptorProto:
    """A whole file of the default pool, with only the options that change its meaning."""
    copy = FileDescriptorProto()
    descriptor_pool.Default().FindFileByName(name).CopyToProto(copy)
    copy.ClearField("options")
    return copy


def in_order(files: dict[str, FileDescriptorProto]) -> list[FileDescriptorProto]:
    """Dependencies first, otherwise by name."""
    done: dict[str, FileDescriptorProto] = {}

    def add(name: str) -> None:
        if name not in done:
            for dependency in files[name].dependency:
                add(dependency)
            done[name] = files[name]

    for name in sorted(files):
        add(name)
    return list(done.values())


def generate() -> tuple[bytes, str]:
    """The contents of both files."""
    kept = supported()
    foreign = [name for name in kept if not name.startswith(OWN_PACKAGES)]
    import_packages(package_of(name) for name in foreign)

    pruner = Pruner(kept)
    sources = {file.name: file for file in (file_of(name) for name in foreign)}
    sources |= {file.name: file for file in own_files()}
    files = {name: pruner.file(source) for name, source in sources.items()}
    if unknown := set(kept) - pruner.seen:
        raise SystemExit(f"supported.txt: there is no {', '.join(sorted(unknown))}")

    # Enums may live in files from which nothing else is taken.
    for enum in pruner.enums:
        file = descriptor_pool.Default().FindFileContainingSymbol(enum) if not enum.startswith(OWN_PACKAGES) else None
        if file and file.name not in files:
            files[file.name] = pruner.file(file_of(enum))
    for file in files.values():
        drop_unused_enums(file, pruner.enums)

    files |= {name: well_known(name) for name in ("google/protobuf/descriptor.proto", "validate/validate.proto")}
    defined = {symbol: file.name for file in files.values() for symbol in symbols(file)}
    for file in list(files.values()):
        needs = set(file.dependency) if file.name == "validate/validate.proto" else {"validate/validate.proto"}
        for who, symbol in references(file):
            if symbol.startswith("google.protobuf.") and symbol not in defined:
                added = well_known(descriptor_pool.Default().FindFileContainingSymbol(symbol).name)
                files[added.name] = added
                defined |= dict.fromkeys(symbols(added), added.name)
            if symbol not in defined:
                raise SystemExit(f"supported.txt: {who} needs {symbol}, which is not listed")
            needs.add(defined[symbol])
        if not file.name.startswith("google/protobuf/"):
            del file.dependency[:]
            file.dependency.extend(sorted(needs - {file.name}))
            for dependency in file.dependency:
                if dependency not in files:
                    files[dependency] = well_known(dependency)

    encoded = descriptor_pb2.FileDescriptorSet(file=in_order(files)).SerializeToString(deterministic=True)
    lines = [f"{message}\t{number}\t{name}\n" for message, number, name in sorted(pruner.left_out)]
    return encoded, "".join(lines)


def main() -> None:
    encoded, unsupported = generate()
    if sys.argv[1:] == ["--check"]:
        if SET.read_bytes() != encoded or UNSUPPORTED.read_text() != unsupported:
            raise SystemExit("the descriptor set is stale: run rust/xds/proto/generate.py")
        return
    SET.parent.mkdir(parents=True, exist_ok=True)
    SET.write_bytes(encoded)
    UNSUPPORTED.write_text(unsupported)
    print(f"{len(encoded)} octets, {unsupported.count(chr(10))} fields left out")


if __name__ == "__main__":
    main()
