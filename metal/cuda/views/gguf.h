#include "layout.h"
#include "nk.h"
