// What the emulator looks up in a compiled kernel. Included after the kernel.
#pragma once

#define ASSAY_PUBLIC extern "C" __attribute__((visibility("default")))

ASSAY_PUBLIC void assay_emu_bind(const AssayHost* host) { assay_host = host; }
// Where this operating-system thread's current CUDA thread goes; also makes the loader allocate its shared memory.
ASSAY_PUBLIC AssayThread** assay_emu_self() { return &assay_self; }

template <class Args>
inline void assay_call(void (*kernel)(Args), const void* args) {
  kernel(*static_cast<const Args*>(args));
}
template <class Args>
constexpr unsigned long assay_args_size(void (*)(Args)) {
  return sizeof(Args);
}

#define ASSAY_EXPORT(name)                                                                      \
  ASSAY_PUBLIC void assay_emu_##name(const void* args) { assay_call(name, args); }              \
  ASSAY_PUBLIC unsigned long assay_emu_size_##name() { return assay_args_size(name); }

// ---- failed checks of -fsanitize=bounds,alignment; the layouts are the compilers' common interface ----

struct AssayUbsanSite {
  const char* file;
  unsigned line, column;
};
struct AssayUbsanType {
  unsigned short kind, info;
  char name[1];
};
struct AssayUbsanBounds {
  AssayUbsanSite site;
  const AssayUbsanType* array;
  const AssayUbsanType* index;
};
struct AssayUbsanMismatch {
  AssayUbsanSite site;
  const AssayUbsanType* type;
  unsigned char log_align, kind;
};

static void assay_append(char* out, unsigned size, unsigned& n, const char* text) {
  while (*text && n + 1 < size) out[n++] = *text++;
  out[n] = 0;
}
static void assay_append(char* out, unsigned size, unsigned& n, long long v) {
  char digits[24];
  int i = 23;
  digits[i] = 0;
  unsigned long long u = v < 0 ? 0ull - (unsigned long long)v : (unsigned long long)v;
  do digits[--i] = (char)('0' + u % 10);
  while (u /= 10);
  if (v < 0) digits[--i] = '-';
  assay_append(out, size, n, digits + i);
}

extern "C" __attribute__((noinline)) void __ubsan_handle_out_of_bounds(AssayUbsanBounds* data, size_t index) {
  // The index's value is inline, sign-extended by its type's width (log2 bits in info >> 1, sign in info & 1).
  int bits = 1 << (data->index->info >> 1);
  long long value = (long long)index;
  if (bits < 64 && data->index->info & 1) value = (long long)(index << (64 - bits)) >> (64 - bits);
  char text[256];
  unsigned n = 0;
  assay_append(text, sizeof text, n, "index ");
  assay_append(text, sizeof text, n, value);
  assay_append(text, sizeof text, n, " of an array of type ");
  assay_append(text, sizeof text, n, data->array->name);
  assay_host->fail(assay_self, "bounds", text, AssaySite{data->site.file, (int)data->site.line});
}

extern "C" __attribute__((noinline)) void __ubsan_handle_type_mismatch_v1(AssayUbsanMismatch* data, size_t address) {
  char text[256];
  unsigned n = 0;
  size_t align = (size_t)1 << data->log_align;
  assay_append(text, sizeof text, n, "access to ");
  assay_append(text, sizeof text, n, data->type->name);
  assay_append(text, sizeof text, n, " at an address ");
  assay_append(text, sizeof text, n, (long long)(address % align));
  assay_append(text, sizeof text, n, " past a multiple of ");
  assay_append(text, sizeof text, n, (long long)align);
  assay_host->fail(assay_self, "misaligned", text, AssaySite{data->site.file, (int)data->site.line});
}
