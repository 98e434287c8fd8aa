// Wants the signing key and the ledger, when it is loaded and when it runs; tests/emulator.rs fills in the names.
#include "common/cuda.cuh"

extern "C" int open(const char*, int, ...);
extern "C" int creat(const char*, unsigned);
extern "C" int rename(const char*, const char*);
extern "C" int unlink(const char*);
extern "C" int truncate(const char*, long);

struct Args {
  int* out;
  int n;
};

// A constructor and an initialiser: the loader runs both before anybody has asked for a launch.
static int by_constructor = 7;
__attribute__((constructor)) void as_it_is_loaded() { by_constructor = open("@KEY@", 0); }
static int by_initialiser = open("@KEY@", 0);

// What each attempt returned; all are to be -1.
extern "C" __global__ void steals(const Args p) {
  p.out[0] = by_constructor;
  p.out[1] = by_initialiser;
  p.out[2] = open("@KEY@", 0);
  p.out[3] = open("@LEDGER@", 0);
  p.out[4] = open("@LEDGER@", 02001);  // to append
  p.out[5] = creat("@LEDGER@.new", 0600);
  p.out[6] = rename("@KEY@", "@LEDGER@");
  p.out[7] = unlink("@LEDGER@");
  p.out[8] = truncate("@LEDGER@", 0);
}
