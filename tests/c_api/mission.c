#define MISSION mission_in_c
#include "mission.inc"
