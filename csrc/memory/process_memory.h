// What the process holds of the machine's memory, as the system counts it.
#pragma once

#include <cstddef>

namespace headrace {

// Bytes resident now; 0 where the system does not say.
std::size_t resident_bytes();
// The most there ever were.
std::size_t resident_bytes_peak();
// Free memory of the C heap goes back to the system: sessions leave hundreds of megabytes there.
void release_heap();

}  // namespace headrace
