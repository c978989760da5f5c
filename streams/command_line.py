"""Every command of `kerbwatch`, put together.

It decides which command stands where; what each does is in its own module. What needs torch is loaded when it is called.
"""

import signal
import threading
from typing import Annotated

import typer

from dashboards.cli import app as dashboards
from inference.measure.cli import evaluate_command
from infra.cli import keys_app, mount
from infra.log import set_up_logs
from infra.metrics import Metrics, Service, serve_metrics
from infra.settings import read_settings
from responders.console import audit as audit_cli
from responders.console import doctor
from responders.console import keys as keys_cli
from responders.console import people as people_cli
from responders.console import rollouts as rollout_cli
from responders.console.playbooks import app as playbooks
from responders.notify.cli import app as notify
from streams import chaos
from streams.baselines import baselines
from streams.bench import stream as bench
from streams.bench.protection import protection, sanitise
from streams.camera import replay_command
from streams.console import catching_up, dlq, models, naming, quarantine_show, rolling, schedule
from streams.console import quarantine as quarantine_cli
from streams.console.detect import detect_command
from streams.console.incidents import app as incidents
from streams.console.late import LATE, call
from streams.console.view import watch_command
from streams.demo.story import demo
from streams.drill.cli import drill
from streams.stack import setup_command, up_command

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Watches a pedestrian detector in service, and defends it. Begin with: `kerbwatch demo`.",
)


app.command("demo")(demo)
app.command("drill")(drill)
app.command("setup")(setup_command)
app.command("up")(up_command)
mount(app)
keys_app.command("rotate")(keys_cli.rotate)
app.command("doctor")(doctor.diagnose)
app.command("watch")(watch_command)
app.add_typer(incidents, name="incidents")
app.add_typer(quarantine_cli.app, name="quarantine")
app.add_typer(notify, name="notify")
app.add_typer(playbooks, name="playbooks")
quarantine_cli.app.command("show")(quarantine_show.show)
app.add_typer(rollout_cli.app, name="rollouts")
rollout_cli.app.command("cancel")(rolling.cancel)
rollout_cli.app.command("pause")(rolling.pause)
rollout_cli.app.command("resume")(rolling.resume)
app.add_typer(people_cli.app, name="people")
app.add_typer(audit_cli.app, name="audit")
audit_cli.app.command("catch-up")(catching_up.catch_up)
app.add_typer(models.app, name="models")
models.app.command("promote")(naming.promote)
models.app.command("rollback")(naming.rollback)
app.command("replay")(replay_command)
app.command("evaluate")(evaluate_command)
app.command("detect")(detect_command)
app.command("baselines")(baselines)
app.add_typer(chaos.app, name="chaos")
app.add_typer(dlq.app, name="dlq")
app.add_typer(schedule.app, name="schedule")
app.add_typer(dashboards, name="dashboards")
app.add_typer(bench.app, name="bench")
bench.app.command("protection")(protection)
bench.app.command("sanitise")(sanitise)


@app.command()
def work(service: Annotated[Service, typer.Argument(help="Which process to be.")]) -> None:
    """Be one of the processes, in the foreground, until a signal ends it. Example: `kerbwatch work infer`."""
    settings = read_settings()
    set_up_logs(service)
    metrics = Metrics(service)
    with serve_metrics(settings, metrics):
        if service is Service.INFER:
            from inference.service.worker import serve

            stop = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            serve(settings, metrics, stop)
        else:
            from streams.agents import create_app
            from streams.app import run

            run(create_app(settings, service, metrics))


@app.command(context_settings=LATE)
def train(context: typer.Context) -> None:
    """Train a model, or go on with a run that was stopped. Example: `kerbwatch train --model csp-nano`."""
    from inference.training.cli import train as command

    call(command, context)


@app.command("train-vlpd", context_settings=LATE)
def train_vlpd(context: typer.Context) -> None:
    """Train VLPD by its authors' recipe. Example: `kerbwatch train-vlpd /data/citypersons --clip RN50.pt`."""
    from inference.training.vlpd_recipe import train_vlpd_command as command

    call(command, context)


@app.command(context_settings=LATE)
def retrain(context: typer.Context) -> None:
    """Retrain a model after an incident, or go on with that. Example: `kerbwatch retrain --reason 3f2a --budget short`."""
    from streams.console.retraining import retrain as command

    call(command, context)


@app.command(context_settings=LATE)
def publish(context: typer.Context) -> None:
    """Measure a trained model and write weights and card. Example: `kerbwatch publish --model csp-nano`."""
    from inference.lifecycle.publish import publish as command

    call(command, context)


@app.command(context_settings=LATE)
def experiments(context: typer.Context) -> None:
    """The paper's experiments, resumable. Example: `kerbwatch experiments table6 --seeds 3 --budget quick`."""
    from inference.experiments.cli import app as group

    group(context.args, prog_name=context.command_path)


@app.command(context_settings=LATE)
def gate(context: typer.Context) -> None:
    """Judge a model before it may serve: robustness, fairness, latency. Example: `kerbwatch gate 3f2a --budget quick`."""
    from inference.lifecycle.cli import gate as command

    call(command, context)


@app.command(context_settings=LATE)
def data(context: typer.Context) -> None:
    """Training data: manifest, golden set, vetting, what is held back. Example: `kerbwatch data manifest`."""
    from inference.lifecycle.cli import data as group
    from streams.console.golden import golden

    group.command("golden")(golden)
    group(context.args, prog_name=context.command_path)


@bench.app.command("detectors", context_settings=LATE)
def bench_detectors(context: typer.Context) -> None:
    """Every claim about detection, measured. Example: `kerbwatch bench detectors --part drift --budget quick`."""
    from streams.bench.parts import detectors as command

    call(command, context)


@bench.app.command("calibrate", context_settings=LATE)
def bench_calibrate(context: typer.Context) -> None:
    """Fit the adversarial-input score to a model. Example: `kerbwatch bench calibrate --pictures 48`."""
    from streams.bench.calibration.command import calibrate as command

    call(command, context)


@bench.app.command("adversarial", context_settings=LATE)
def bench_adversarial(context: typer.Context) -> None:
    """Attacked pictures told from honest ones, per attack. Example: `kerbwatch bench adversarial --budget quick`."""
    from streams.bench.adversarial.command import adversarial as command

    call(command, context)


@bench.app.command("triage", context_settings=LATE)
def bench_triage(context: typer.Context) -> None:
    """Drills of seven kinds of trouble: which does triage name? Example: `kerbwatch bench triage --rounds 20`."""
    from streams.bench.triage.command import triage as command

    call(command, context)
