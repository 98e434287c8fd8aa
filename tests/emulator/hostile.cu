// What no kernel has any business doing; tests/emulator.rs runs these in a confined worker.
#include "common/cuda.cuh"

extern "C" long syscall(long number, ...);
extern "C" int open(const char*, int, ...);
extern "C" int socket(int, int, int);
extern "C" int execve(const char*, char* const*, char* const*);
extern "C" int fork();
extern "C" int mkdir(const char*, unsigned);
extern "C" int ptrace(int, ...);
extern "C" int sigprocmask(int, const void*, void*);
extern "C" void abort();
extern "C" int getppid();
extern "C" int kill(int, int);

struct Args {
  int* out;
  int n;
};

// What each attempt returned; all are to be -1.
extern "C" __global__ void escapes(const Args p) {
  p.out[0] = open("/etc/passwd", 0);
  p.out[1] = open("/proc/1/environ", 0);
  p.out[2] = open("/tmp/assay-escaped", 0102, 0600);
  p.out[3] = mkdir("/tmp/assay-escaped", 0700);
  p.out[4] = socket(2, 1, 0);
  p.out[5] = socket(1, 1, 0);
  p.out[6] = execve("/bin/true", nullptr, nullptr);
  p.out[7] = fork();
  p.out[8] = ptrace(16, getppid(), 0, 0);
  p.out[9] = kill(getppid(), 0);
  p.out[10] = open("/", 0);
}

extern "C" __global__ void aborts(const Args p) { abort(); }

// With every signal blocked nothing inside the process can end this.
extern "C" __global__ void hangs(const Args p) {
  unsigned long long all[16];
  for (auto& word : all) word = ~0ull;
  sigprocmask(0, all, nullptr);
  volatile int go = 1;
  while (go) {
  }
}

extern "C" __global__ void well_behaved(const Args p) { p.out[threadIdx.x] = p.n + (int)threadIdx.x; }
