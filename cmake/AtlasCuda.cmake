# Kernels for NVIDIA GPUs: nvcc makes one fatbin of src/kernels/cuda/kernels.cu, which lies in the library as data (kernels/cuda/fatbin.h) and is loaded
# through the driver. Nothing else of CUDA is needed, neither to build nor to run; without nvcc the library has no kernels and says so (kernels/no_cuda).
# ATLAS_CUDA_KERNELS: AUTO (if there is an nvcc), ON (fails without), OFF. The environment's ATLAS_DEV_CUDA names a toolkit's folder; ./dev sets it.
set(ATLAS_CUDA_KERNELS AUTO CACHE STRING "CUDA kernels: AUTO, ON or OFF")
set_property(CACHE ATLAS_CUDA_KERNELS PROPERTY STRINGS AUTO ON OFF)
# Turing; Ampere's servers; its cards, whose code Ada runs too; Hopper; Blackwell's cards. What is newer compiles the PTX of compute_80 at load.
set(ATLAS_CUDA_ARCHITECTURES 75 80 86 90 120)

set(ATLAS_HAS_CUDA FALSE)
# What instruments the host's code does nothing for a GPU's: one build with kernels is enough.
if(NOT ATLAS_CUDA_KERNELS STREQUAL OFF AND NOT ATLAS_SANITIZE AND NOT ATLAS_COVERAGE)
    find_program(ATLAS_NVCC nvcc HINTS $ENV{ATLAS_DEV_CUDA}/bin /usr/local/cuda/bin DOC "CUDA's compiler, 13.0 or later")
    if(ATLAS_NVCC)
        set(ATLAS_HAS_CUDA TRUE)
    elseif(ATLAS_CUDA_KERNELS STREQUAL ON)
        message(FATAL_ERROR "ATLAS_CUDA_KERNELS=ON, but there is no nvcc: name a toolkit's folder in the environment's ATLAS_DEV_CUDA")
    else()
        message(STATUS "no nvcc: the library is built without CUDA kernels")
    endif()
endif()

# atlas_fatbin(OUTPUT NAMES): the command that makes it, and kernels.json beside it; NAMES: what it is for, for people.
function(atlas_fatbin output names)
    find_package(Python3 REQUIRED COMPONENTS Interpreter)
    set(folder ${PROJECT_SOURCE_DIR}/src/kernels/cuda)
    file(GLOB headers CONFIGURE_DEPENDS ${folder}/*.cuh ${folder}/*.def)
    list(JOIN ATLAS_CUDA_ARCHITECTURES "," architectures)
    list(JOIN ATLAS_CUDA_ARCHITECTURES " sm_" text)
    set(${names} "sm_${text}, later by compute_80" PARENT_SCOPE)
    add_custom_command(OUTPUT ${output}
        COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/scripts/cuda_fatbin.py --nvcc ${ATLAS_NVCC} --source ${folder}/kernels.cu
            --include ${PROJECT_SOURCE_DIR}/src --architectures ${architectures} --output ${output}
        DEPENDS ${PROJECT_SOURCE_DIR}/scripts/cuda_fatbin.py ${folder}/kernels.cu ${headers} ${folder}/arguments.h ${folder}/shapes.h
            ${folder}/simt.h ${folder}/simt_device.h
        COMMENT "CUDA kernels for ${architectures} (minutes, once)" VERBATIM)
endfunction()
