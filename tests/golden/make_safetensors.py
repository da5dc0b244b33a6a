"""A safetensors file by the reference implementation, and the check that it reads one of Yoke's.

requires: torch==2.15.0 numpy==2.4.6 safetensors==0.8.0

safetensors/python     every type that C++ has and some that it has not; a scalar, empty tensors, a name that is not
                       ASCII. Element i of a tensor is i - 3; for unsigned types i, for bool whether i is odd.
safetensors/yoke       what tests/io/safetensors_writer_test.cpp writes, byte for byte; here it is only read.
"""
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from golden import ROOT

METADATA = {"title": 'quotes " \\ and\nlines, \u00e9\u4e2d\U0001f600'}
TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
         "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32,
         "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn}


def values(name, count):
    ids = torch.arange(count)
    if name == "BOOL":
        return ids % 2 == 1
    return (ids if name.startswith("U") else ids - 3).to(TYPES[name])


def main():
    path = ROOT / "safetensors/python.safetensors"
    path.parent.mkdir(exist_ok=True)
    tensors = {name: values(name, 6).reshape(2, 3) for name in TYPES}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0), "no rows": torch.zeros(0, 4),
                "naïve/图": values("F32", 3)}
    save_file(tensors, path, metadata=METADATA)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")

    with safe_open(ROOT / "safetensors/yoke.safetensors", framework="pt") as ours:
        assert ours.metadata() == METADATA | {"": "empty key"}, ours.metadata()
        expected = {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "naïve/图": values("F32", 3)}
        expected |= {name: values(name, 6).reshape(2, 3) for name in ("F64", "F32", "BF16", "I64", "I32", "I16", "I8",
                                                                    "U64", "U32", "U16", "U8")}
        assert sorted(ours.keys()) == sorted(expected), ours.keys()
        for name, value in expected.items():
            again = ours.get_tensor(name)
            assert again.dtype == value.dtype and torch.equal(again, value), name
    print("safetensors/yoke.safetensors: read and right")


if __name__ == "__main__":
    main()
