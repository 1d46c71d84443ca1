"""The services, each as it is on this machine without a network, and a reader of what it has of a run."""

import json
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from callbacks import LoggerCallback, MLflowCallback, TensorBoardCallback, TrackioCallback, WandbCallback


class Seen(NamedTuple):
    """What a service has of a run."""

    scalars: dict[str, list[tuple[int, float]]]
    config: dict[str, Any]  # that of the user
    texts: dict[str, str]
    figures: set[str]
    files: dict[str, str]
    end: str


class InMemory:
    """A service of one's own, over the same protocol; it fails where it is told to."""

    def __init__(self, fails_at=(), error=None):
        self.fails_at, self.error = fails_at, error or OSError("no space left")
        self.calls, self.points, self.texts, self.figures, self.files = [], [], {}, {}, []

    def _call(self, name):
        self.calls.append(name)
        if name in self.fails_at:
            raise self.error

    def start(self, run_id, step, config):
        self._call("start")
        self.config, self.first_step = config, step
        self.points = [point for point in self.points if point[0] < step]
        return run_id or f"run {self.calls.count('start')}"

    def scalars(self, points):
        self._call("scalars")
        self.points += [(step, dict(values)) for step, values in points]

    def figure(self, name, png, step):
        self._call("figure")
        self.figures[name] = png

    def text(self, name, text, step):
        self._call("text")
        self.texts[name] = text

    def file(self, path):
        self._call("file")
        self.files.append(path)

    def end(self, status, reason):
        self._call("end")
        self.ended = status, reason


def series_of(points):
    """Return numbers by name, each with its step."""
    series = defaultdict(list)
    for step, values in points:
        for name, value in values.items():
            series[name].append((step, value))
    return dict(series)


_MEMORY: dict[Path, InMemory] = {}


def make_memory(folder, config=None):
    return LoggerCallback(_MEMORY.setdefault(folder, InMemory()), config)


def read_memory(folder, cb):
    service = cb.logger
    config = {name: value for name, value in service.config.items() if name not in ("seed", "learner")}
    files = {path.name: path.read_text() for path in service.files}
    end = service.ended[0] if service.ended[1] is None else f"{service.ended[0]}: {service.ended[1]}"
    return Seen(series_of(service.points), config, service.texts, set(service.figures), files, end)


def make_tensorboard(folder, config=None):
    return TensorBoardCallback(folder / "events", config)


def read_tensorboard(folder, cb):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "events"), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    events.Reload()
    scalars = {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}
    texts = {
        name.removesuffix("/text_summary"): events.Tensors(name)[-1].tensor_proto.string_val[0].decode()
        for name in events.Tags()["tensors"]
    }
    config = json.loads(texts.pop("config").removeprefix("```json").removesuffix("```"))
    end = texts.pop("status")
    files = {path.name: path.read_text() for path in (folder / "events" / "files").glob("*")}
    return Seen(scalars, _of_user(config), texts, set(events.Tags()["images"]), files, end)


def make_wandb(folder, config=None):
    return WandbCallback(config, project="tests", mode="offline", dir=str(folder))


def read_wandb(folder, cb):
    import wandb
    from wandb.proto import wandb_internal_pb2 as protocol

    wandb.teardown()  # another process writes the files; it is waited for at the end of a program
    points, config, summary, exits, figures, texts, files = [], {}, {}, [], set(), {}, {}
    # Of the runs of one id, as those of a training that went on, a server takes no step twice.
    paths = folder.glob(f"wandb/offline-run-*-{cb.run_id}*/*.wandb")
    for path in sorted(paths, key=lambda path: path.parent.name):
        last = points[-1][0] if points else -1
        for data in _wandb_records(path.read_bytes()):
            record = protocol.Record()
            record.ParseFromString(data)
            for item in [*record.run.config.update, *record.config.update]:
                config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            for item in record.summary.update:
                summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            if record.WhichOneof("record_type") == "exit":
                exits.append(record.exit.exit_code)
            if record.WhichOneof("record_type") == "history" and record.history.step.num > last:
                values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                numbers = {name: json.loads(text) for name, text in values.items() if not name.startswith("_")}
                points.append((record.history.step.num, numbers))
        media = path.parent / "files" / "media"
        figures |= {str(file.relative_to(media / "images")) for file in media.glob("images/**/*.png")}
        texts |= {file.name: file.read_text() for file in media.glob("html/**/*.html")}
        known = {"requirements.txt", "wandb-metadata.json", "wandb-summary.json", "config.yaml", "output.log"}
        there = [file for file in (path.parent / "files").iterdir() if file.is_file() and file.name not in known]
        files |= {file.name: file.read_text() for file in there}
    series = series_of(points)
    scalars = {
        name: [(step, float(value)) for step, value in values]
        for name, values in series.items()
        if not name.endswith(("/_type", "/path", "/sha256", "/size", "/format", "/width", "/height"))
    }
    assert exits[-1] == int(summary["status"] != "finished")
    status = f"{summary['status']}: {summary['error']}".removesuffix(": None")
    names = {name.rsplit("_", 2)[0] for name in figures}
    return Seen(
        scalars, _of_user(config), {name.rsplit("_", 2)[0]: t for name, t in texts.items()}, names, files, status
    )


def _wandb_records(data):
    """Give the records of a file, which is in LevelDB's log format."""
    at, record = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, n, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + n]
        at += 7 + n
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def make_mlflow(folder, config=None):
    return MLflowCallback(f"sqlite:///{mlflow_database()}", name="first", config=config)


_DATABASE: list[Any] = []


def mlflow_database() -> Path:
    """Return a database of this process; to make one takes MLflow two seconds."""
    import tempfile

    if not _DATABASE:
        _DATABASE.append(tempfile.TemporaryDirectory())
    return Path(_DATABASE[0].name) / "mlflow.db"


def read_mlflow(folder, cb):
    from mlflow import MlflowClient

    client = MlflowClient(cb.logger.uri)
    run = client.get_run(cb.run_id)
    scalars = {
        name: sorted((one.step, one.value) for one in client.get_metric_history(cb.run_id, name))
        for name in run.data.metrics
    }
    paths, folders = [], [""]
    while folders:
        for one in client.list_artifacts(cb.run_id, folders.pop() or None):
            (folders if one.is_dir else paths).append(one.path)
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    figures = {path.removeprefix("figures/").removesuffix(".png") for path in paths if path.endswith(".png")}
    texts = {path.removesuffix(".txt"): (root / path).read_text() for path in paths if path.endswith(".txt")}
    files = {path: (root / path).read_text() for path in paths if not path.endswith((".txt", ".png"))}
    config = {name: value for name, value in run.data.params.items() if not name.startswith(("seed", "learner"))}
    status = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}[run.info.status]
    end = f"{status}: {run.data.tags['error']}".removesuffix(": ")
    return Seen(scalars, config, texts, figures, files, end)


def make_trackio(folder, config=None):
    return TrackioCallback(folder.name, config=config, auto_log_cpu=False, auto_log_gpu=False)


def read_trackio(folder, cb):
    from trackio import Api
    from trackio.sqlite_storage import SQLiteStorage
    from trackio.utils import TRACKIO_DIR

    project, run_id = cb.logger.project, cb.run_id
    rows = SQLiteStorage.get_logs(project, run_id)
    series = series_of((row["step"], {name: row[name] for name in row.keys() - {"step", "timestamp"}}) for row in rows)
    media = {name: values[-1][1] for name, values in series.items() if isinstance(values[-1][1], dict)}
    scalars = {name: values for name, values in series.items() if name not in media}
    texts = {name: value["_value"] for name, value in media.items() if value["_type"] == "trackio.markdown"}
    figures = media.keys() - texts
    run = next(run for run in Api().runs(project) if run.name == run_id)
    config = {name: value for name, value in run.config.items() if not name.startswith("_")}
    end = texts.pop("status")
    alerts = [f"{alert['title']}: {alert['text']}".removesuffix(": None") for alert in run.alerts()]
    assert alerts[-1:] == [end] or end == "finished"
    blobs = [path.read_text() for path in TRACKIO_DIR.glob(f"artifacts/{project}/blobs/sha256/*/*")]
    return Seen(scalars, _of_user(config), texts, set(figures), dict(zip(["notes.md"], blobs, strict=False)), end)


def _of_user(config):
    return {name: value for name, value in config.items() if name not in ("seed", "learner", "_wandb")}


SERVICES = {
    "memory": (make_memory, read_memory),
    "tensorboard": (make_tensorboard, read_tensorboard),
    "wandb": (make_wandb, read_wandb),
    "mlflow": (make_mlflow, read_mlflow),
    "trackio": (make_trackio, read_trackio),
}
