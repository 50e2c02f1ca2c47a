// LSAQ: layer-specific adaptive quantization. The core in the order data flows; include this in an engine.
//
//   hidden states -> importance -> free memory -> plan -> codes and scales -> packed weights -> matrix products
//
// Not included: lsaq/cuda.cuh (Backend<Cuda>), lsaq/quantization/shared_channels.hpp (SWSC; it takes seconds to compile), lsaq/thread_pool.hpp, lsaq/report.hpp,
// lsaq/formats/*, lsaq/models/*.
#pragma once

#include <lsaq/config.hpp>
#include <lsaq/error.hpp>
#include <lsaq/executor.hpp>
#include <lsaq/half.hpp>
#include <lsaq/types.hpp>

#include <lsaq/importance/joint.hpp>
#include <lsaq/importance/layer_importance.hpp>
#include <lsaq/importance/metric.hpp>
#include <lsaq/importance/order_confidence.hpp>
#include <lsaq/importance/token_sets.hpp>

#include <lsaq/resources/device.hpp>
#include <lsaq/resources/host_memory.hpp>

#include <lsaq/planning/costs.hpp>
#include <lsaq/planning/knapsack.hpp>
#include <lsaq/planning/memory_model.hpp>
#include <lsaq/planning/optimal.hpp>
#include <lsaq/planning/plan.hpp>
#include <lsaq/planning/planner.hpp>

#include <lsaq/quantization/clipping.hpp>
#include <lsaq/quantization/gptq.hpp>
#include <lsaq/quantization/granularity.hpp>
#include <lsaq/quantization/input_statistics.hpp>
#include <lsaq/quantization/packed_matrix.hpp>
#include <lsaq/quantization/quantizer.hpp>
#include <lsaq/quantization/rotation.hpp>
#include <lsaq/quantization/rounding.hpp>

#include <lsaq/deployment/backend.hpp>
#include <lsaq/deployment/cpu.hpp>
