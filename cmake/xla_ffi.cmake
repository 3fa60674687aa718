# The JAX entry points, where jaxlib's headers are found. Only headers: nothing of jaxlib is linked.
set(SCANLIB_XLA_INCLUDE "" CACHE PATH "jaxlib's include folder; looked for in the Python that builds if empty")
set(include "${SCANLIB_XLA_INCLUDE}")
if(NOT include)
  find_package(Python COMPONENTS Interpreter)
  if(Python_FOUND)
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c
        "import importlib.util as u; print(u.find_spec('jaxlib').submodule_search_locations[0], 'include', sep='/')"
      OUTPUT_VARIABLE include OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(EXISTS "${include}/xla/ffi/api/ffi.h")
  file(STRINGS "${include}/xla/ffi/api/c_api.h" minor REGEX "#define XLA_FFI_API_MINOR")
  message(STATUS "JAX entry points: headers in ${include} (${minor})")
  target_sources(scanlib PRIVATE native/xla_ffi.cpp native/xla_cuda.cpp)
  target_include_directories(scanlib SYSTEM PRIVATE "${include}")
else()
  message(STATUS "JAX entry points: left out, jaxlib's headers were not found")
endif()
