// How grids are run (emulate_grid.cpp), and kernels called with arguments that are numbers.
#pragma once

#include "emulate_rules.h"
#include "emulate_tensor.h"

#include <type_traits>
#include <utility>

namespace emulate {

// Runs a grid, in order where `seed` is 0. Returns 0, or 1 with a message.
int run_grid(void (*entry)(const int64_t*), const int64_t* args, int64_t blocks, int threads, int64_t shared, uint64_t seed, char* message,
             int size);

// The rank of this block in its cluster of so many, which it is part of from now on.
unsigned join_cluster(unsigned count);

template <class T, class = void>
struct Argument {  // a structure, given by its address
    static T of(int64_t x) { return *reinterpret_cast<const T*>(static_cast<intptr_t>(x)); }
};
template <class T>
struct Argument<T, std::enable_if_t<std::is_arithmetic<T>::value>> {
    static T of(int64_t x) { return static_cast<T>(x); }
};
template <class T>
struct Argument<T*> {
    static T* of(int64_t x) { return reinterpret_cast<T*>(static_cast<intptr_t>(x)); }
};
template <class... A, size_t... I>
inline void call(void (*kernel)(A...), const int64_t* args, std::index_sequence<I...>) {
    kernel(Argument<A>::of(args[I])...);
}
template <class... A>
inline void call(void (*kernel)(A...), const int64_t* args) {
    call(kernel, args, std::index_sequence_for<A...>{});
}

}  // namespace emulate
