extern "C" {
#define MISSION mission_in_cpp
#include "mission.inc"
}
