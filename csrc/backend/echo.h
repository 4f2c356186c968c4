// The reference backend: it gives every required input back as the output of the same place. It needs no runtime, so
// queue, scheduler, engine and front end can be tried on it alone.
//
// Its model file is text, one statement a line ('#' starts a comment):
//   input NAME DTYPE [dims]      dims: a number, a symbol (equal symbols must be equal sizes) or -1 (any size)
//   optional NAME DTYPE [dims]   an input that may be left out; it is not echoed
//   output NAME                  the name of the next output; without any, outputs are called like their inputs
//   metadata KEY VALUE
//   fail_on VALUE                a run with a row of the first input that starts with VALUE fails with INTERNAL
//   answers rows                 a request is answered once for each row of its inputs (dimension 0), and then told its
//   end answers rows last            the same, but the last row's answer is the end hold_on VALUE                such a
//   run waits until it is told to stop
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/registry.h"
#include "base/error.h"

namespace headrace {

Result<std::shared_ptr<Backend>> open_echo(const BackendOptions& options);

}  // namespace headrace
