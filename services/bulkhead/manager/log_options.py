"""What a container's shim is told of its log: files, attributes, and where else the lines go."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from bulkhead.errors import Internal, InvalidArgument
from bulkhead.manager.config import ManagerConfig
from bulkhead.manager.ports import LogOptions
from bulkhead.model import logdriver
from bulkhead.model.container import Container, LogConfig
from bulkhead.model.ids import short
from bulkhead.model.instance import Instance

_SHIPPED = ("syslog", "journald")
# Docker's for `local`, and for the cache that `docker logs` reads of drivers that write elsewhere.
_LOCAL_SIZE, _LOCAL_FILES = "20m", "5"
_BUFFER_SIZE = "1m"
_encode = msgspec.json.Encoder().encode


def configured(told: LogConfig, config: ManagerConfig) -> LogConfig:
    """A new container's: the daemon's driver unless it names one, and the daemon's options for that driver."""
    driver = told.driver or config.log_driver
    options = {**config.log_options, **told.options} if driver == config.log_driver else dict(told.options)
    logdriver.check(driver, options)
    return LogConfig(driver=driver, options=options)


def log_path(instance: Instance, container: Container) -> str:
    """The file that `docker logs` reads; empty when there is none."""
    told = container.spec.log_config
    if told.driver in ("", "json-file"):
        return str(instance.log_file(container.id))
    if told.driver == "local":
        return str(instance.container_data(container.id) / "local.log")
    if told.driver in _SHIPPED and not logdriver.truth(told.options, "cache-disabled"):
        return str(instance.container_data(container.id) / "cached.log")
    return ""


def log_options(instance: Instance, config: ManagerConfig, container: Container) -> LogOptions:
    """Raises Internal, as Docker does at the start, for a size, number or tag that is none."""
    try:
        return _log_options(instance, config, container)
    except InvalidArgument as error:
        raise Internal(f"failed to initialize logging driver: {error}") from error


def _log_options(instance: Instance, config: ManagerConfig, container: Container) -> LogOptions:
    told = container.spec.log_config
    driver, options = told.driver or config.log_driver, told.options
    prefix = "cache-" if driver in _SHIPPED else ""
    capped = driver == "json-file"
    max_size = _limit(options.get(f"{prefix}max-size", config.log_max_size if capped else _LOCAL_SIZE))
    max_file = _count(options.get(f"{prefix}max-file", str(config.log_max_file) if capped else _LOCAL_FILES))
    compress = logdriver.truth(options, f"{prefix}compress", default=not capped and max_file > 1)
    if compress and (max_file < 2 or not max_size):
        if capped:
            text = "compress cannot be true when max-file is less than 2 or max-size is not set"
        else:
            text = "compression cannot be enabled when max file count is 1"
        raise InvalidArgument(text)
    return LogOptions(
        driver=driver,
        path=log_path(instance, container),
        max_size=max_size,
        max_file=max_file,
        compress=compress,
        attributes=_encode(attributes) if capped and (attributes := _attributes(container, options)) else b"",
        non_blocking=options.get("mode") == "non-blocking",
        max_buffer=logdriver.size(options.get("max-buffer-size", _BUFFER_SIZE)),
        destination=_encode(_destination(config, container, driver)) if driver in _SHIPPED else b"",
    )


def _attributes(container: Container, options: Mapping[str, str]) -> dict[str, str]:
    found = _extra(container, options)
    return {**found, "tag": _tag(container, options["tag"])} if options.get("tag") else found


def _extra(container: Container, options: Mapping[str, str]) -> dict[str, str]:
    env = dict(entry.partition("=")[::2] for entry in container.spec.env)
    return logdriver.extra(options, container.spec.labels, env)


def _tag(container: Container, template: str) -> str:
    digest = container.image_id.partition(":")[2]
    fields = {
        "ID": short(container.id),
        "FullID": container.id,
        "Name": container.name,
        "ImageID": digest[:12],
        "ImageFullID": container.image_id,
        "ImageName": container.spec.image,
        "DaemonName": "docker",
    }
    return logdriver.tag(template, fields)


def _destination(config: ManagerConfig, container: Container, driver: str) -> dict[str, Any]:
    options = container.spec.log_config.options
    tag = _tag(container, options.get("tag") or logdriver.DEFAULT_TAG)
    if driver == "journald":
        if not Path(config.journald_socket).is_socket():
            raise InvalidArgument("journald is not enabled on this host")
        fields = {
            "CONTAINER_ID": short(container.id),
            "CONTAINER_ID_FULL": container.id,
            "CONTAINER_NAME": container.name,
            "CONTAINER_TAG": tag,
            "IMAGE_NAME": container.spec.image,
            "SYSLOG_IDENTIFIER": tag,
        }
        fields |= {_field_name(name): value for name, value in _extra(container, options).items()}
        return {"kind": driver, "path": config.journald_socket, "fields": fields}
    return {
        "kind": driver,
        **asdict(logdriver.address(options.get("syslog-address", ""))),
        "facility": logdriver.facility(options.get("syslog-facility", "")),
        "format": options.get("syslog-format", ""),
        "tag": tag,
        "hostname": socket.gethostname(),
        "ca": options.get("syslog-tls-ca-cert", ""),
        "certificate": options.get("syslog-tls-cert", ""),
        "key": options.get("syslog-tls-key", ""),
        # Docker: set at all is set.
        "unverified": "syslog-tls-skip-verify" in options,
    }


def _field_name(name: str) -> str:
    """A journal field has capitals, digits and underscores, and begins with a letter."""
    return "".join(each if each.isascii() and each.isalnum() else "_" for each in name.upper()).lstrip("_0123456789")


def _limit(text: str) -> int:
    return 0 if text in ("", "-1", "0") else logdriver.size(text)


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise InvalidArgument(f'strconv.Atoi: parsing "{text}": invalid syntax') from None
    if number < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    return number
