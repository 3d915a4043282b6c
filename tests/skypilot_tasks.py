"""What SkyPilot reads in its files, as JSON: `PYTHON tests/skypilot_tasks.py FILE …`, by a Python that has skypilot.

Each file is also read as `sky jobs launch` would with other devices: `FILE@ACCELERATOR`, `FILE@ACCELERATOR@NODES`.
"""

import json
import sys

import sky

found = {}
for name in sys.argv[1:]:
    path, *others = name.split("@")
    task = sky.Task.from_yaml(path)
    if others:
        task.set_resources_override({"accelerators": others[0]})
    if others[1:]:
        task.num_nodes = int(others[1])
    [resources] = task.resources
    found[name] = {
        "nodes": task.num_nodes,
        "resources": resources.to_yaml_config(),
        "mounts": {place: mount.to_yaml_config() for place, mount in task.storage_mounts.items()},
        "envs": task.envs,
    }
print(json.dumps(found, default=str))
