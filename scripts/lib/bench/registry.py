"""How a site's registry grows: start with and without a snapshot, memory, match, list, search, and
what an import of many rows costs others. There is no peer to compare with: the growth is the result."""
import os
import pathlib
import shutil

from . import kit

SIZES = (1_000, 10_000, 100_000)
COLUMNS = ["devices", "start ms", "RSS MiB", "match us p50", "p99", "page ms", "search ms", "one ms"]


def program(args):
    # A build that somebody brought may have it beside itself.
    beside = args.bin.parent / "examples/bench_registry"
    if args.brought and beside.is_file():
        return beside
    kit.say("building the measurement (release)")
    kit.run("cargo", "build", "--release", "--quiet", "--example", "bench_registry", "--manifest-path", kit.ROOT / "Cargo.toml", timeout=3600)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", kit.ROOT / "target"))
    return target / "release/examples/bench_registry"


def bench(args):
    run = lambda *words: kit.run(program_path, *map(str, words), timeout=3600)
    program_path = program(args)
    kit.say(" " * 10 + "  ".join(COLUMNS))
    for devices in SIZES[:2] if args.quick else SIZES:
        folder = args.dir / f"registry-{devices}"
        run("make", folder, devices, devices * 10)
        # The first start reads the whole journal and leaves a snapshot for the second.
        for what in ("journal", "snapshot"):
            kit.say(f"{what:<10}{run('measure', folder)}".rstrip())
        shutil.rmtree(folder)
    kit.say(run("import", args.dir / "registry-import", SIZES[1] if args.quick else SIZES[2]))
    return []
