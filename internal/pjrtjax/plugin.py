"""Implements a PJRT plug-in in Python on top of the CPU client of jaxlib.

It implements only the part of the PJRT C API that go-xla calls. The environment variable
PJRT_JAX_DEVICES sets the number of devices into which the CPU is divided (default 1). Every call
finishes its work before it returns, so every event is ready. Pointers to objects are numbers in a table.
"""
import os
import re
import traceback

os.environ["JAX_PLATFORMS"] = "cpu"

import cffi
import jax
import ml_dtypes
import numpy as np
from jax._src.lib import xla_client

jax.config.update("jax_num_cpu_devices", int(os.environ.get("PJRT_JAX_DEVICES", "1")))
jax.config.update("jax_enable_x64", True)

DTYPES = {
    "PRED": np.bool_, "S8": np.int8, "S16": np.int16, "S32": np.int32, "S64": np.int64,
    "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64,
    "F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16,
    "C64": np.complex64, "C128": np.complex128,
}
CODES = {"INVALID_ARGUMENT": 3, "NOT_FOUND": 5, "RESOURCE_EXHAUSTED": 8, "UNIMPLEMENTED": 12, "INTERNAL": 13}


class Table:
    """Maps numbers to Python objects. Callers of the API hold the numbers as pointers."""

    def __init__(self):
        self.objects, self.next = {}, 16

    def add(self, x):
        self.next += 16
        self.objects[self.next] = x
        return self.next


class Plugin:
    def __init__(self, text, functions):
        self.ffi = ffi = cffi.FFI()
        ffi.cdef(text, override=True)
        self.table, self.kept = Table(), []
        self.client = jax.devices()[0].client
        self.devices = [self.table.add(d) for d in self.client.devices()]
        names = {v: k for k, v in ffi.typeof("PJRT_Buffer_Type").relements.items()}
        self.types = {v: DTYPES[n.removeprefix("PJRT_Buffer_Type_")] for v, n in names.items() if n.removeprefix("PJRT_Buffer_Type_") in DTYPES}
        self.numbers = {np.dtype(t): v for v, t in self.types.items()}
        self.api = ffi.new("API*")
        self.api.struct_size = ffi.sizeof("API")
        self.api.version.struct_size = ffi.sizeof("PJRT_Api_Version")
        self.api.version.major_version, self.api.version.minor_version = 0, 104
        for i, name in enumerate(functions):
            self.api.functions[i] = ffi.cast("void*", self.function(name))

    def function(self, name):
        """Returns the C function with this name. It calls the method of this class, or returns an error if there is none."""
        method, ffi = getattr(self, name.removeprefix("PJRT_"), None), self.ffi
        if name in ("PJRT_Error_Destroy", "PJRT_Error_Message"):  # these two functions return no error
            pointer = ffi.callback(f"void({name}_Args*)", method)
        else:
            args = name + "_Args*"
            try:
                ffi.typeof(args)
            except ffi.error:
                args = "void*"

            def call(a):
                try:
                    if method is None:
                        raise RuntimeError(f"UNIMPLEMENTED: {name} is not implemented by this plug-in")
                    method(a)
                    return ffi.NULL
                except BaseException as e:
                    if os.environ.get("PJRT_JAX_TRACE"):
                        traceback.print_exc()
                    return self.pointer("PJRT_Error*", self.error(e))

            pointer = ffi.callback(f"PJRT_Error*({args})", call)
        self.kept.append(pointer)
        return pointer

    def error(self, e):
        text = str(e)
        code = next((c for n, c in CODES.items() if n in text), 13)
        return self.table.add((code, text.encode()))

    def pointer(self, kind, number):
        return self.ffi.cast(kind, number)

    def of(self, pointer):
        return self.table.objects[int(self.ffi.cast("size_t", pointer))]

    def drop(self, pointer):
        self.table.objects.pop(int(self.ffi.cast("size_t", pointer)), None)

    def string(self, args, field, text, size=None):
        """Sets a field to text. The text is never freed, because there are few texts."""
        data = self.ffi.new("char[]", text.encode())
        self.kept.append(data)
        setattr(args, field, data)
        setattr(args, size or field + "_size", len(text))

    # Errors and events.
    def Error_Destroy(self, a):
        self.drop(a.error)

    def Error_Message(self, a):
        number = self.ffi.cast("PJRT_Error*", a.error)
        code, text = self.of(number)
        data = self.ffi.new("char[]", text)
        self.kept.append(data)
        a.message, a.message_size = data, len(text)

    def Error_GetCode(self, a):
        a.code = self.of(self.ffi.cast("PJRT_Error*", a.error))[0]

    def Plugin_Initialize(self, a):
        pass

    def Plugin_Attributes(self, a):
        a.attributes, a.num_attributes = self.ffi.NULL, 0

    def Event_Destroy(self, a):
        pass

    def Event_Await(self, a):
        pass

    def Event_IsReady(self, a):
        a.is_ready = True

    def ready(self):
        return self.pointer("PJRT_Event*", 16)

    # Client and devices.
    def Client_Create(self, a):
        a.client = self.pointer("PJRT_Client*", self.table.add(self.client))

    def Client_Destroy(self, a):
        self.drop(a.client)

    def Client_PlatformName(self, a):
        self.string(a, "platform_name", "cpu")

    def Client_PlatformVersion(self, a):
        self.string(a, "platform_version", "jaxlib " + jax.lib.__version__)

    def Client_ProcessIndex(self, a):
        a.process_index = 0

    def list(self, a, field, count):
        data = self.ffi.new("PJRT_Device*[]", [self.pointer("PJRT_Device*", n) for n in self.devices])
        self.kept.append(data)
        setattr(a, field, data)
        setattr(a, count, len(self.devices))

    def Client_Devices(self, a):
        self.list(a, "devices", "num_devices")

    def Client_AddressableDevices(self, a):
        self.list(a, "addressable_devices", "num_addressable_devices")

    def Client_DefaultDeviceAssignment(self, a):
        for i in range(a.num_replicas * a.num_partitions):
            a.default_assignment[i] = i

    def Device_GetDescription(self, a):
        a.device_description = self.ffi.cast("PJRT_DeviceDescription*", a.device)

    def Device_IsAddressable(self, a):
        a.is_addressable = True

    def Device_LocalHardwareId(self, a):
        a.local_hardware_id = self.of(a.device).id

    def DeviceDescription_ProcessIndex(self, a):
        a.process_index = 0

    def DeviceDescription_DebugString(self, a):
        self.string(a, "debug_string", f"XLA CPU through jaxlib, device {self.of(a.device_description).id}")

    # Buffers.
    def buffer(self, array):
        return self.pointer("PJRT_Buffer*", self.table.add(array))

    def Client_BufferFromHostBuffer(self, a):
        dtype, dims = np.dtype(self.types[a.type]), [a.dims[i] for i in range(a.num_dims)]
        size = int(np.prod(dims, dtype=np.int64)) * dtype.itemsize
        data = np.frombuffer(self.ffi.buffer(a.data, size), dtype=dtype).reshape(dims).copy() if size else np.zeros(dims, dtype)
        device = self.of(a.device) if a.device != self.ffi.NULL else jax.devices()[0]
        a.buffer = self.buffer(jax.device_put(data, device).block_until_ready())
        a.done_with_host_buffer = self.ready()

    def Buffer_Destroy(self, a):
        self.drop(a.buffer)

    def Buffer_ElementType(self, a):
        a.type = self.numbers[np.dtype(self.of(a.buffer).dtype)]

    def Buffer_Dimensions(self, a):
        dims = self.ffi.new("int64_t[]", list(self.of(a.buffer).shape) or [0])
        self.kept.append(dims)
        if len(self.kept) > 200_000:  # callers read dimensions at once, so old dimensions can be freed
            del self.kept[150_000:190_000]
        a.dims, a.num_dims = dims, len(self.of(a.buffer).shape)

    def Buffer_Device(self, a):
        a.device = self.pointer("PJRT_Device*", self.devices[list(self.of(a.buffer).devices())[0].id])

    def Buffer_ToHostBuffer(self, a):
        data = np.ascontiguousarray(np.asarray(self.of(a.src)))
        if a.dst == self.ffi.NULL:
            a.dst_size = data.nbytes
        elif data.nbytes:
            self.ffi.memmove(a.dst, self.ffi.from_buffer(data.reshape(-1).view(np.uint8)), data.nbytes)
        a.event = self.ready()

    def Buffer_CopyToDevice(self, a):
        a.dst_buffer = self.buffer(jax.device_put(self.of(a.buffer), self.of(a.dst_device)).block_until_ready())

    # Programs.
    def Client_Compile(self, a):
        program = bytes(self.ffi.buffer(a.program.code, a.program.code_size))
        options = xla_client.CompileOptions.ParseFromString(bytes(self.ffi.buffer(a.compile_options, a.compile_options_size)))
        count = max(1, options.num_replicas) * max(1, options.num_partitions)
        devices = self.client.devices()[:count]
        if options.compile_portable_executable:  # jaxlib needs the devices at compile time
            options.compile_portable_executable = False
            options.device_assignment = xla_client.DeviceAssignment.create(np.array([[0]]))
        if os.environ.get("PJRT_JAX_DUMP"):
            with open(os.path.join(os.environ["PJRT_JAX_DUMP"], f"program{self.table.next}.mlir"), "wb") as f:
                f.write(program)
        loaded = self.client.compile_and_load(program, xla_client.DeviceList(tuple(devices)), options)
        name = re.search(rb"module @(\w+)", program)
        outputs = len(loaded.get_output_shardings() or loaded.get_output_layouts()) if count > 1 else len(loaded.get_output_layouts())
        a.executable = self.pointer("PJRT_LoadedExecutable*", self.table.add((loaded, name.group(1).decode() if name else "main", outputs, devices)))

    def LoadedExecutable_GetExecutable(self, a):
        a.executable = self.pointer("PJRT_Executable*", self.table.add(self.of(a.loaded_executable)))

    def LoadedExecutable_Destroy(self, a):
        self.drop(a.executable)

    def Executable_Destroy(self, a):
        self.drop(a.executable)

    def Executable_Name(self, a):
        self.string(a, "executable_name", self.of(a.executable)[1])

    def Executable_NumOutputs(self, a):
        a.num_outputs = self.of(a.executable)[2]

    def Executable_GetCompiledMemoryStats(self, a):
        s = self.of(a.executable)[0].get_compiled_memory_stats()
        for field in ("generated_code", "argument", "output", "alias", "temp"):
            setattr(a, field + "_size_in_bytes", getattr(s, field + "_size_in_bytes"))

    def LoadedExecutable_Execute(self, a):
        loaded, _, outputs, devices = self.of(a.executable)
        if a.execute_device != self.ffi.NULL:
            devices = [self.of(a.execute_device)]
        args = [[self.of(a.argument_lists[d][i]) for i in range(a.num_args)] for d in range(a.num_devices)]
        if a.num_devices == 1:
            inputs = args[0]
        else:
            # Combine the arrays of all devices to one array with a replicated sharding. Their values may differ.
            mesh = jax.sharding.Mesh(np.array(devices), ("d",))
            spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            inputs = [jax.make_array_from_single_device_arrays(args[0][i].shape, spec, [args[d][i] for d in range(a.num_devices)]) for i in range(a.num_args)]
        results = loaded.execute_sharded(inputs).disassemble_into_single_device_arrays()
        for i in range(outputs):
            for d in range(a.num_devices):
                a.output_lists[d][i] = self.buffer(results[i][d].block_until_ready())
        if a.device_complete_events != self.ffi.NULL:
            for d in range(a.num_devices):
                a.device_complete_events[d] = self.ready()


KEPT = []


def api(text, functions):
    """Returns the address of the function table of the API."""
    plugin = Plugin(text, functions)
    KEPT.append(plugin)
    return int(plugin.ffi.cast("size_t", plugin.api))
