/* libfastvlm: answers about pictures with FastVLM models, on a CPU. This header includes the whole public API. */
#ifndef FASTVLM_H
#define FASTVLM_H

#include "fastvlm/convert.h"
#include "fastvlm/dataset.h"
#include "fastvlm/engine.h"
#include "fastvlm/export.h"
#include "fastvlm/image.h"
#include "fastvlm/roofline.h"
#include "fastvlm/session.h"
#include "fastvlm/status.h"
#include "fastvlm/text.h"
#include "fastvlm/train.h"

#endif
