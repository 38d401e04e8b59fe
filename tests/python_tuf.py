"""python-tuf, the reference client, against a running appliance.

usage: python_tuf.py ROOT.json http://ADDRESS TARGET EXPECTED_FILE FOLDER
"""

import sys
from pathlib import Path

from tuf.ngclient import Updater

root, server, target, expected, folder = sys.argv[1:]
folder = Path(folder)
(folder / "targets").mkdir(parents=True)
updater = Updater(
    metadata_dir=str(folder / "metadata"),
    metadata_base_url=f"{server}/tuf/metadata/",
    target_dir=str(folder / "targets"),
    target_base_url=f"{server}/tuf/targets/",
    bootstrap=Path(root).read_bytes(),
)
updater.refresh()
info = updater.get_targetinfo(target)
if info is None:
    sys.exit(f"python-tuf finds no target {target}")
path = updater.download_target(info)
if Path(path).read_bytes() != Path(expected).read_bytes():
    sys.exit(f"{path} is not {expected}")
print(f"python-tuf: root, timestamp, snapshot and targets are good; {target} has the {info.length} bytes that HQ signed")
