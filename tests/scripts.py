"The scripts of tools/, for tests that call their functions."
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def script(name):
    "A script of tools/ as a module. It finds its neighbours as it does when it is run."
    spec = spec_from_file_location(f"tools_{name}", TOOLS / f"{name}.py")
    module = module_from_spec(spec)
    sys.path.insert(0, str(TOOLS))
    try: spec.loader.exec_module(module)
    finally: sys.path.remove(str(TOOLS))
    return module
