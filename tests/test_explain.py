"""Bad input: one line, whatever is bad, and nothing trained."""

import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from calls import SCRIPT, TINY, Ended, assert_one_line, but, in_a_process
from hydra.errors import HydraException
from runs import query, write_idx

from bnrepro import explain
from bnrepro.datasets import IDX_FILES
from bnrepro.errors import InputError
from bnrepro.store import FILE


def nothing(folder: Path) -> None: ...


def a_file(folder: Path) -> None:
    folder.write_text("in the way")


def good_files(folder: Path) -> None:
    write_idx(folder)


def changed(index: int, change: Callable[[bytes], bytes | None], suffix: str = "") -> Callable[[Path], None]:
    """The four files, one of them changed, renamed, or absent if the change is to None."""

    def prepare(folder: Path) -> None:
        path = write_idx(folder) / IDX_FILES[index]
        content = change(path.read_bytes())
        path.unlink()
        if content is not None:
            path.with_name(path.name + suffix).write_bytes(content)

    return prepare


def a_foreign_store(folder: Path) -> None:
    for name in ("single", "learning_rates"):
        (folder / name).mkdir(parents=True)
        query(folder / name / FILE, "CREATE TABLE runs (a)")


def garbage(folder: Path) -> None:
    (folder / "single").mkdir(parents=True)
    (folder / "single" / FILE).write_bytes(b"no database" * 99)


def refused() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/"


def options(content: str | bytes) -> Callable[[Path], None]:
    """A file of options of the user's own."""

    def prepare(folder: Path) -> None:
        (folder / "sweep").mkdir(parents=True)
        (folder / "sweep" / "mine.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


OWN = "--config-dir=given +sweep=mine"
GIVEN_IDX = "dataset=mnist dataset.root=given dataset.sha256=null"
GROUPS = "dataset, model, optimizer, lr_schedule"
NAMES = "must be one of {}, or an import path"
BAD: list[tuple[str, str, Callable[[Path], None]]] = [
    # unknown names
    ("model.activation=elu", f"model.activation=elu: {NAMES.format('sigmoid, relu, tanh')}", nothing),
    ("model.norm=layer", f"model.norm=layer: {NAMES.format('none, batch')}", nothing),
    ("dataset=cifar", "dataset=cifar: must be one of cifar10, digits, fashion_mnist, mnist", nothing),
    ("+sweep=foo", "sweep=foo: must be one of accelerating, batch_size, covariate_shift, ", nothing),
    ("optimizer=foo", "optimizer=foo: must be one of adagrad, momentum, sgd", nothing),
    ("model=foo", "model=foo: must be one of cnn, inception, mlp", nothing),
    ("compute=foo", "compute=foo: must be one of dask, inline, local", nothing),
    ("--multirun dataset=digits,foo", "dataset=foo: must be one of cifar10, digits, fashion_mnist, mnist", nothing),
    ("model.init.scheme=foo", f"model.init.scheme=foo: {NAMES.format('normal, xavier, he')}", nothing),
    ("dataset=null", "dataset=null: must be one of cifar10, digits, fashion_mnist, mnist", nothing),
    # unknown keys
    ("+sweep sweep.grid={}", r"sweep.grid=\{\}: must list values for at least one setting", nothing),
    ("+sweep sweep.grid.model={}", r"sweep.grid.model=\{\}: must list values for at least one setting", nothing),
    ("results_dir='~nobody-of-that-name/x'", "results_dir=~nobody-of-that-name/x: must be a folder", nothing),
    ("model.foo=1", "model.foo=1: no such key; known are name, hidden, activation, norm, norm_options, ", nothing),
    ("optimizr.lr=1", "optimizr.lr=1: no such key; known are hydra, train, diagnostics, seed, ", nothing),
    ("+foo=1", f"foo=1: no such key; known are {GROUPS}, train, diagnostics, seed, compute, results_dir", nothing),
    ("+model.init.foo=1", "model.init.foo=1: no such key; known are scheme, std", nothing),
    ("dataset.root=here", "dataset.root=here: no such key; known are name, binarize", nothing),
    ("+sweep/scale=mnist", "sweep=null: must be one of accelerating, batch_size, covariate_shift, ", nothing),
    ("sweep.grid.seed=[1]", r"sweep.grid.seed=\[1\]: only with a sweep: \+sweep=NAME, of accelerating", nothing),
    ("+sweep sweep.grid.foo=[1]", r"sweep.grid.foo=\[1\]: no such key; known are train, diagnostics, seed", nothing),
    ("+sweep +sweep.grid.foo=[1]", r".sweep.grid.foo=\[1\]: no such key; known are train, diagnostics", nothing),
    ("+sweep sweep.grid.train.foo=[1]", r"sweep.grid.train.foo=\[1\]: no such key; known are steps, batch", nothing),
    ("+sweep sweep.grid.lr=[1]", r"sweep.grid.lr=\[1\]: no such key; .*; did you mean optimizer.lr\?$", nothing),
    ("+sweep sweep.grid.optimizr.lr=[1]", r"sweep.grid.optimizr.lr=\[1\]: no .* mean optimizer.lr\?$", nothing),
    ("+sweep sweep.grid.figures.width=[1]", r"sweep.grid.figures.width=\[1\]: no such key; known are", nothing),
    ("+sweep sweep.grid=[1]", r"sweep.grid=\[1\]: must be settings, each with a list of values$", nothing),
    ("+sweep sweep.grid.model=[mlp]", r"sweep.grid.model=\[mlp\]: the sweep's grid has .*; ~sweep.grid.mod", nothing),
    ("+sweep +sweep.grid.model.norm.foo=[1]", r".sweep.grid.model.norm.foo=\[1\]: .* is a list, which", nothing),
    ("+sweep sweep.grd.seed=[1]", r"sweep.grd.seed=\[1\]: no such key; .*, grid; did you mean seed\?$", nothing),
    ("grid.seed=[1]", r"grid.seed=\[1\]: no such key; .* did you mean seed\?$", nothing),
    ("foo.name=x", r"foo.name=x: no such key; known are hydra, [^?]*$", nothing),  # so many end in that
    ("lr=0.1", r"lr=0.1: no such key; .*; did you mean optimizer.lr\?$", nothing),
    ("model.activaton=relu", r"model.activaton=relu: no such key; .*; did you mean model.activation\?$", nothing),
    ("optimizer.momentum=0.9", "optimizer.momentum=0.9: .*; with optimizer=momentum there is one$", nothing),
    ("model.stem=8", "model.stem=8: no such key; .*; with model=inception there is one$", nothing),
    ("compute.scheduler=x", "compute.scheduler=x: no such key; .*; with compute=dask there is one$", nothing),
    ("+optimizer.lr=0.1", r".optimizer.lr=0.1: there is one already, so without \+: optimizer.lr=0.1$", nothing),
    ("+model=cnn", r".model=cnn: there is one already, so without \+: model=cnn$", nothing),
    ("~sweep.grid.foo", "~sweep.grid.foo: no such key$", nothing),
    ("~lr", r"~lr: no such key; did you mean optimizer.lr\?$", nothing),
    ("+optimizer.momentum=0.9", "optimizer.momentum=0.9: no such key; known are lr, weight_decay$", nothing),
    ("model.hidden.foo=3", "model.hidden.foo=3: model.hidden is a list, which is given as a whole", nothing),
    ("model.norm=batch model.norm_options.foo=1", "model.norm_options.foo=1: no such key; known are eps, mom", nothing),
    ("--resolve", ".*The --resolve flag can only be used in conjunction with --cfg", nothing),
    ("~seed", "seed: missing", nothing),
    ("~train", "train.steps=5: not together with ~train", nothing),
    ("sweep.dry_run=true", "sweep=null: must be one of accelerating, batch_size, covariate_shift, ", nothing),
    ("+sweep sweep.force=perhaps", "sweep.force=perhaps: must be a valid boolean", nothing),
    ("+show=foo", "sweep=foo: must be one of accelerating, batch_size, covariate_shift, ", nothing),
    ("+show seed=0", "32 of 32 runs are not in results/learning_rates; to train them: .* seed=0", nothing),
    ("+show sweep.force=true", "sweep.show=true: not together with sweep.dry_run=true, sweep.force=true or", nothing),
    ("sweep.show=true", "sweep=null: must be one of accelerating, batch_size, covariate_shift, ", nothing),
    ("+benchmark=quick +sweep", "benchmark=quick: not together with sweep=learning_rates$", nothing),
    ("+benchmark +verify", "benchmark=full: not together with verify.sweep=learning_rates$", nothing),
    ("+claims +sweep", "claims=true: not together with sweep=learning_rates$", nothing),
    ("+claims +verify", "claims=true: not together with verify.sweep=learning_rates$", nothing),
    ("+claims +benchmark", "claims=true: not together with benchmark=full$", nothing),
    ("+claims +report", "claims=true: not together with report=true$", nothing),
    ("+report +sweep", "report=true: not together with sweep=learning_rates$", nothing),
    ("+claims=perhaps", "claims=perhaps: must be a valid boolean", nothing),
    ("+verify=foo", "results/foo/runs.sqlite: no such store of runs", nothing),
    ("+verify +sweep", "verify.sweep=learning_rates: not together with sweep=learning_rates", nothing),
    ("+verify verify.sample=0", "verify.sample=0: must be greater than 0", nothing),
    ("compute.scheduler=tcp://h:1", "compute.scheduler=tcp://h:1: no such key; known are name, group_size", nothing),
    ("+sweep compute=dask compute.scheduler=x://y", "compute.scheduler=x://y: can't be reached .*unknown", nothing),
    ("+sweep compute=dask compute.scheduler=host", "compute.scheduler=host: can't be reached .*missing port", nothing),
    ("+sweep compute=dask compute.scheduler=tls://h:1", "compute.scheduler=tls://h:1: can't be reached .*TLS", nothing),
    # what has no effect
    ("verify.sample=3", "verify.sample=3: only with \\+verify$", nothing),
    ("+sweep verify.sample=3", "verify.sample=3: only with \\+verify$", nothing),
    ("+verify seed=5", "seed=5: has no effect on \\+verify, which trains runs as they are stored$", nothing),
    ("+verify sweep.dry_run=true", "sweep.dry_run=true: has no effect on \\+verify, which ", nothing),
    ("+verify dataset.binarize=true", "dataset.binarize=true: has no effect on \\+verify, which ", nothing),
    ("+report figures.formats=[png]", "train.steps=5: has no effect on report=true$", nothing),
    ("+benchmark model.hidden=[8]", r"train.steps=5: has no effect on benchmark=full$", nothing),
    ("+claims model.hidden=[8]", r"train.steps=5: has no effect on claims=true$", nothing),
    ("compute=local", "compute=local: has no effect on a single run, which is trained as with compute=inline", nothing),
    ("+sweep=figure1 model.init.std=0.2", "model.init.std=0.2: none of the sweep's 5 values of model.init", nothing),
    ("+sweep seed=5 sweep.grid.seed=[0,1]", r"seed=5: not together with sweep.grid.seed=\[0,1\]$", nothing),
    ("+sweep seed=interval(0,1)", r"seed=interval\(0,1\): must be a finite list of values", nothing),
    ("seed=range(0,3)", r"Sweep parameters 'seed=range\(0,3\)' requires --multirun", nothing),
    # Hydra's grammar
    ("model.hidden=[1", r"model.hidden=\[1: must be KEY=VALUE, .*no viable alternative", nothing),
    ("sweep", "sweep: must be KEY=VALUE, .*missing EQUAL", nothing),
    ("results_dir=~/here", "results_dir=~/here: must be KEY=VALUE, or \"KEY='VALUE'\" with special char", nothing),
    ("optimizer.lr=0.1,0.2", "Ambiguous value for argument 'optimizer.lr=0.1,0.2' .* add --multirun", nothing),
    ("seed=${oc.env:NO_SUCH_VARIABLE}", ".*'NO_SUCH_VARIABLE' not found.* full_key: seed", nothing),
    # files of options
    (OWN, ".*given/sweep/mine.yaml: line 2: found character '.t' that cannot start any", options("a: 1\n\tb: 2")),
    (OWN, ".*given/sweep/mine.yaml: line 2: expected ',' or ']', but got ':'$", options("a: [1\nb: 2")),
    (OWN, ".*given/sweep/mine.yaml: line 2: found duplicate key a$", options("a: 1\na: 2")),
    (OWN, "unacceptable character #x0000.* in .*given/sweep/mine.yaml", options("a: \0")),
    (OWN, ".*given/sweep/mine.yaml: must be UTF-8", options("a: é".encode("latin-1"))),
    # numbers
    ("train.measurements=1000000000", "train.measurements=1000000000: must be less than or equal to 1000000", nothing),
    (f"train.steps={10**22}", f"train.steps={10**22}: must fit in 64 bits, which is what SQLite can hold$", nothing),
    ("optimizer.lr=-1", "optimizer.lr=-1: must be greater than 0", nothing),
    ("optimizer.lr=0", "optimizer.lr=0: must be greater than 0", nothing),
    ("optimizer.lr=abc", "optimizer.lr=abc: must be a valid number", nothing),
    ("optimizer.lr=true", "optimizer.lr=true: must be a valid number", nothing),
    ("--multirun optimizer.lr=-1,-2", "optimizer.lr=-1: must be greater than 0", nothing),
    ("+sweep sweep.grid.optimizer.lr=[0.1,-1]", "optimizer.lr=-1: must be greater than 0", nothing),
    ("train.steps=0", "train.steps=0: must be greater than 0", nothing),
    ("train.steps=-5", "train.steps=-5: must be greater than 0", nothing),
    ("train.batch_size=0", "train.batch_size=0: must be greater than 0", nothing),
    ("train.batch_size=-5", "train.batch_size=-5: must be greater than 0", nothing),
    ("train.batch_size=1443", "train.batch_size=1443: must be at most 1442, the training examples of digits", nothing),
    ("+sweep train.batch_size=1443", "train.batch_size=1443: must be at most 1442, the training examples", nothing),
    ("train.batch_size=1 model.norm=batch", "train.batch_size=1: batch norm needs at least 2 examples", nothing),
    ("+sweep train.batch_size=1", "train.batch_size=1: batch norm needs at least 2 examples", nothing),
    # grids
    ("+sweep sweep.grid.seed=[]", r"sweep.grid.seed=\[\]: must be a list of at least one value", nothing),
    ("+sweep sweep.grid.seed=3", "sweep.grid.seed=3: must be a list of at least one value", nothing),
    ("+sweep ~sweep.grid.model ~sweep.grid.optimizer ~sweep.grid.seed", "sweep.grid={}: must list values", nothing),
    ("+sweep seed=range(0,9999) optimizer.lr=range(1,99,0.01)", ".*9800 of optimizer.lr × 9999 of seed makes", nothing),
    ("+sweep ~sweep.grid", "sweep.grid: missing", nothing),
    # files
    (GIVEN_IDX, "dataset.root=given: no such folder; it needs the four IDX files of mnist, raw or .gz", nothing),
    (GIVEN_IDX, "dataset.root=given: no file t10k-labels-idx1-ubyte or .*; it needs the", changed(3, lambda _: None)),
    (GIVEN_IDX, "dataset.root=given: train-images-idx3-ubyte: .* header says", changed(0, lambda b: b[:-1])),
    (GIVEN_IDX, "dataset.root=given: train-labels-idx1-ubyte: ends inside its header", changed(1, lambda b: b[:6])),
    (GIVEN_IDX, "dataset.root=given: train-labels-idx1-ubyte: not an IDX file", changed(1, lambda b: b"\x1f" + b[1:])),
    (GIVEN_IDX, "dataset.root=given: train-images-.*gz: Not a gzipped file", changed(0, lambda b: b, ".gz")),
    (GIVEN_IDX, "dataset.root=given: 30 images but 60 labels", changed(0, lambda b: b[:7] + b"\x1e" + b[8:1936])),
    (GIVEN_IDX, "dataset.root=given: t10k-images.*: 1 dimensions, not 3", changed(2, lambda b: b[:3] + b"\1" + b[4:])),
    ("dataset=mnist dataset.root=given", "dataset.root=given: .*SHA-256 is .*, not .* as in dataset.sha", good_files),
    (f"+sweep {GIVEN_IDX}", "dataset.root=given: no such folder", nothing),
    (
        f"dataset=mnist dataset.mirrors=[{refused()},{refused()}]",
        "dataset.root=null: no mirror gave train-images-idx3-ubyte.gz: .*Connection refused.*; set dataset.root=FOLD",
        nothing,
    ),
    # results
    ("results_dir=given", r"results_dir=given: can't be written \(Not a directory\)", a_file),
    ("+sweep results_dir=given/x", r"results_dir=given/x: can't be written \(Not a directory\)", a_file),
    ("--multirun results_dir=given seed=0,1", r"results_dir: can't write given/single \(Not a directory\)", a_file),
    ("results_dir=", "results_dir=: must have at least 1 character", nothing),
    ("results_dir=https://x.y/z", "results_dir=https://x.y/z: must be a folder, not an address$", nothing),
    ("+sweep results_dir=s3://bucket", "results_dir=s3://bucket: must be a folder, not an address$", nothing),
    ("results_dir=null", "results_dir=null: must be a valid string", nothing),
    ("results_dir=given", "given/single/runs.sqlite: not a store of bnrepro; name another results", a_foreign_store),
    ("+sweep results_dir=given", "given/learning_rates/runs.sqlite: not a store of bnrepro; ", a_foreign_store),
    ("results_dir=given", "given/single/runs.sqlite: can't be used as a store .*not a database", garbage),
    ("compute=local compute.n_jobs=0", "compute.n_jobs=0: must be a number of worker processes, or -1", nothing),
]  # fmt: skip


IDS = [f"{i}: {re.sub(':[0-9]+/', ':PORT/', row[0])}" for i, row in enumerate(BAD)]


@pytest.mark.parametrize(("arguments", "expected", "prepare"), BAD, ids=IDS)
def test_bad_input_is_one_line_with_key_value_and_what_is_allowed(
    call: Callable[..., Ended],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: list[str],
    arguments: str,
    expected: str,
    prepare: Callable[[Path], None],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here.parent / "cache"))
    prepare(here / "given")
    given = arguments.split()
    words = ["compute=inline", *given] if "verify" in arguments else but(TINY, *given)
    ended = call(*sorted(words, key=lambda word: not word.startswith("--")))
    assert_one_line(ended, expected)
    assert "Traceback" not in ended.out
    assert trained == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("dataset=foo", "dataset=foo: must be one of "),
        ("sweep.grid.seed=[]", r"sweep.grid.seed=\[\]: must be a list of at least one value"),
        ("results_dir=given", "given/learning_rates/runs.sqlite: not a store of bnrepro"),
    ],
)
def test_a_script_reports_bad_input_alike(call: Callable[..., Ended], here: Path, override: str, expected: str) -> None:
    a_foreign_store(here / "given")
    assert_one_line(call(override, script=SCRIPT), expected)


@pytest.mark.parametrize(
    "arguments",
    [
        "dataset=foo",
        "model.foo=1",
        "optimizer.lr=0",
        "results_dir=given",
        "--multirun results_dir=given/x seed=0,1",
        "--multirun optimizer.lr=-1,-2",
    ],
)
def test_whoever_wants_tracebacks_gets_the_error_itself(
    call: Callable[..., Ended],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
) -> None:
    """One of each way by which bad input is found."""
    a_file(here / "given")
    monkeypatch.setattr(explain, "TRACEBACK", True)
    with pytest.raises((InputError, HydraException, OSError)):
        call(*arguments.split())
    assert "bnrepro: " not in capsys.readouterr().err


def test_bad_input_in_true_processes(tmp_path: Path) -> None:
    """A command, its jobs, and a script, with and without the traceback."""
    (tmp_path / "file").write_text("in the way")
    cases = [
        ("-m bnrepro dataset=foo", "dataset=foo: must be one of "),
        ("-m bnrepro --multirun results_dir=file/x seed=0,1", "results_dir: can't write file/x/single"),
        (f"{SCRIPT} train.steps=0", "train.steps=0: must be greater than 0"),
    ]
    commands = [(arguments.split(), expected, "0") for arguments, expected in cases]
    commands += [(arguments.split(), expected, "1") for arguments, expected in (cases[1], cases[-1])]
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(lambda c: in_a_process(c[0], tmp_path, HYDRA_FULL_ERROR=c[2]), commands)
        for (_, expected, full), end in zip(commands, ended, strict=True):
            if full == "0":
                assert_one_line(end, expected)
            else:
                assert end.status == 1
                assert "Traceback (most recent call last)" in end.err
                assert "bnrepro: " not in end.err
            assert end.out == ""
    assert {path.name for path in tmp_path.iterdir()} <= {
        "file",
        "results",
    }  # where --multirun leaves its multirun.yaml
