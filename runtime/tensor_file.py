"""Files of tensors: the safetensors format, read without its package; why torch cannot load one."""

import json
import re

from runtime.files import kind_of
from runtime.printing import first_line

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
          "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
          "BOOL": "bool"}  # fmt: skip


def read_safetensors(content, torch):
    """{name: tensor} of the bytes of a safetensors file. Format: huggingface.co/docs/safetensors.

    Of several names of one tensor the file holds one, and the others as metadata {name: that one},
    as `safetensors.torch.save_model` writes it. `torch` is the module. Errors of any type where
    the bytes are damaged.
    """
    content = bytearray(content)
    start = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:start])
    names = entries.pop("__metadata__", {})
    tensors = {}
    for name, entry in entries.items():
        first, last = entry["data_offsets"]
        data = content[start + first : start + last]
        if len(data) != last - first:
            raise ValueError(f"the bytes of {name} are cut off: copy or download it again")
        dtype = getattr(torch, DTYPES[entry["dtype"]])
        values = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        tensors[name] = values.reshape(entry["shape"])
    others = {name: tensors[first] for name, first in names.items() if first in tensors}
    return others | tensors


def why_unreadable(path, error):
    """Why torch cannot load a file, in one line."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found:
        return (
            f"it holds {found[1]}, an object and no tensor, which may run any code and is not "
            "opened; where the file was made, save torch.save(network.state_dict(), FILE), and "
            "numbers as float(x)"
        )
    if "TorchScript" in str(error):
        return "it is a TorchScript archive: save torch.save(network.state_dict(), FILE) instead"
    kind = path.is_file() and kind_of(path)  # or it is in a bundle
    if kind and not kind.startswith(("a zip", "a safetensors")):  # as what can be read begins
        return f"it is {kind}"
    if kind is None:
        return "it does not begin as a file of torch.save does: copy or download it again"
    if type(error) is ValueError:  # a sentence of this project, which says what to do
        return first_line(error)
    # Its first sentence: what torch says next is how to read a file that may run any code.
    reason = f"{type(error).__name__}: {first_line(error).split('. ')[0]}"
    return f"{reason}; it is damaged, or not by torch.save: copy or download it again"
