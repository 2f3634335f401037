#!/usr/bin/env python3
"""Builds a PJRT plug-in that runs programs on the CPU client of jaxlib.

usage: build.py PJRT_C_API_H OUTDIR

PJRT_C_API_H is the file pjrt/pjrt_c_api.h of github.com/gomlx/go-xla at the version in go.mod. The
script writes the plug-in to OUTDIR/pjrt_c_api_jaxcpu_plugin.so. The plug-in starts the Python that
built it and runs plugin.py. The script needs jax, jaxlib, numpy and cffi, a C compiler, and a Python
that was built as a shared library.
"""
import os
import re
import subprocess
import sys
import sysconfig

import cffi

HERE = os.path.dirname(os.path.abspath(__file__))


def declarations(header):
    """Returns the types of the header in the form that cffi reads, and the function names of the API in order."""
    text = subprocess.run(["cc", "-E", "-P", header], check=True, capture_output=True, text=True).stdout
    text = text[text.index("typedef enum {\n  PJRT_Extension_Type") if "typedef enum {\n  PJRT_Extension_Type" in text else text.index("PJRT_Extension_Type") - 14:]
    text = re.sub(r"enum\s*\{\s*\w+_STRUCT_SIZE\s*=.*?\};\s*;?", "", text, flags=re.S)
    api = re.search(r"typedef struct PJRT_Api \{(.*?)\} PJRT_Api;", text, flags=re.S)
    functions = re.findall(r"(PJRT_\w+)\s*\*\s*\1\s*;", api.group(1))
    text = text[: api.start()]
    # Keep only the structs. Functions are called through pointers, so cffi needs no function types.
    text = re.sub(r"typedef\s+(?:PJRT_Error\s*\*|void)\s+PJRT_\w+\s*\([^;]*?\)\s*;", "", text, flags=re.S)
    text += """
typedef struct { size_t struct_size; void* extension_start; PJRT_Api_Version version; void* functions[%d]; } API;
""" % len(functions)
    return text, functions


def main():
    header, out = sys.argv[1:3]
    text, functions = declarations(header)
    os.makedirs(out, exist_ok=True)
    ffi = cffi.FFI()
    ffi.embedding_api("const void* GetPjrtApi(void);")
    # The symbols of a plug-in are private, but Python modules look for the symbols of the interpreter
    # among the global symbols. So the plug-in loads the Python library again with global symbols.
    ffi.set_source("pjrt_c_api_jaxcpu_plugin", """
#include <dlfcn.h>
__attribute__((constructor)) static void share(void) { dlopen("%s", RTLD_NOW | RTLD_GLOBAL); }
""" % os.path.join(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")))
    paths = [HERE] + [p for p in sys.path if p.endswith("-packages")]
    ffi.embedding_init_code(f"""
import sys
sys.path[:0] = {paths!r}
from pjrt_c_api_jaxcpu_plugin import ffi
import plugin
api = plugin.api({text!r}, {functions!r})
@ffi.def_extern()
def GetPjrtApi():
    return ffi.cast("void*", api)
""")
    os.chdir(out)
    print(ffi.compile(target=os.path.join(out, "pjrt_c_api_jaxcpu_plugin.so")))


main()
