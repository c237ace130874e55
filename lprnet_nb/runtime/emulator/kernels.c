/* Kernels of the native executor (native.py). Compiled on first use for the machine at hand.
 *
 * Layout: images x rows x columns x channels. A quantized tensor is kept as bytes, "offset binary":
 * byte = stored integer + offset, offset 128 for int8 and 0 for uint8, so that every comparison and
 * every dot product is unsigned; channels are padded to a multiple of four with zeros in the
 * weights. Float tensors are float32 and unpadded.
 *
 * Exactness. Integer convolutions accumulate in int32: the largest sum, 255 * 127 * 3328, needs 27
 * bits (native.py checks each layer). With VNNI the dot product of four bytes goes straight into an
 * int32 lane without intermediate saturation; without it the operands are widened to int16 and
 * vpmaddwd is used, because vpmaddubsw saturates. Requantization is in int64, or in float64 where
 * native.py has shown that 53 bits hold the product. Float convolutions use one fused multiply-add
 * per element, in the order (channel, row, column) and in the blocks that native.py gives, which is
 * the order of the vendor's interpreter. -ffp-contract=off keeps the compiler from fusing others.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { F32, F16, BF16 };

typedef struct {
    int32_t kind, src[4], dst, scratch, n_src;
    int32_t i[24];
    float f[4];
    const void *p[10];
} Op;

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* ---- vectors -------------------------------------------------------------------------------- */

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define WIDE 1
#define VL 16
typedef __m512i ivec;
typedef __m512 fvec;
INLINE ivec iload(const void *p) { return _mm512_loadu_si512(p); }
INLINE fvec fload(const float *p) { return _mm512_loadu_ps(p); }
INLINE fvec fzero(void) { return _mm512_setzero_ps(); }
INLINE fvec fbroadcast(const float *p) { return _mm512_set1_ps(*p); }
INLINE fvec ffma(fvec a, fvec b, fvec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE fvec fadd(fvec a, fvec b) { return _mm512_add_ps(a, b); }
INLINE fvec frelu(fvec a) { return _mm512_max_ps(a, _mm512_setzero_ps()); }
INLINE void fstore(float *p, fvec v, int lanes) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << lanes) - 1), v);
}
INLINE fvec fload_part(const float *p, int lanes) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << lanes) - 1), p);
}
INLINE ivec ibroadcast(const void *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
}
#if defined(__AVX512VNNI__)
#define KSTEP 4
typedef uint8_t elem;
INLINE ivec dot(ivec acc, ivec x, ivec w) { return _mm512_dpbusd_epi32(acc, x, w); }
#else
#define KSTEP 2
typedef int16_t elem;
INLINE ivec dot(ivec acc, ivec x, ivec w) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(x, w));
}
#endif

#elif defined(__AVX2__) && defined(__FMA__)
#define VL 8
typedef __m256i ivec;
typedef __m256 fvec;
INLINE ivec iload(const void *p) { return _mm256_loadu_si256(p); }
INLINE fvec fload(const float *p) { return _mm256_loadu_ps(p); }
INLINE fvec fzero(void) { return _mm256_setzero_ps(); }
INLINE fvec fbroadcast(const float *p) { return _mm256_set1_ps(*p); }
INLINE fvec ffma(fvec a, fvec b, fvec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE fvec fadd(fvec a, fvec b) { return _mm256_add_ps(a, b); }
INLINE fvec frelu(fvec a) { return _mm256_max_ps(a, _mm256_setzero_ps()); }
INLINE ivec ibroadcast(const void *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
}
#if defined(__AVXVNNI__)
#define KSTEP 4
typedef uint8_t elem;
INLINE ivec dot(ivec acc, ivec x, ivec w) { return _mm256_dpbusd_avx_epi32(acc, x, w); }
#else
#define KSTEP 2
typedef int16_t elem;
INLINE ivec dot(ivec acc, ivec x, ivec w) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(x, w));
}
#endif

#else
/* Plain C: vectors as small arrays, which compilers map to whatever the machine has. */
#define VL 8
#define KSTEP 2
typedef int16_t elem;
typedef struct { int32_t v[VL]; } ivec;
typedef struct { int16_t v[2 * VL]; } wvec;
typedef struct { float v[VL]; } fvec;
#define PLAIN 1
INLINE fvec fload(const float *p) { fvec r; memcpy(&r, p, sizeof r); return r; }
INLINE fvec fzero(void) { fvec r; memset(&r, 0, sizeof r); return r; }
INLINE fvec fbroadcast(const float *p) { fvec r; for (int j = 0; j < VL; j++) r.v[j] = *p; return r; }
INLINE fvec ffma(fvec a, fvec b, fvec c) {
    for (int j = 0; j < VL; j++) c.v[j] = fmaf(a.v[j], b.v[j], c.v[j]);
    return c;
}
INLINE fvec fadd(fvec a, fvec b) { for (int j = 0; j < VL; j++) a.v[j] += b.v[j]; return a; }
INLINE fvec frelu(fvec a) { for (int j = 0; j < VL; j++) a.v[j] = a.v[j] > 0 ? a.v[j] : 0; return a; }
INLINE ivec iload(const void *p) { ivec r; memcpy(&r, p, sizeof r); return r; }
INLINE ivec ibroadcast(const void *p) {
    ivec r;
    for (int j = 0; j < VL; j++) memcpy(&r.v[j], p, 4);
    return r;
}
INLINE ivec dot(ivec acc, ivec x, ivec w) {
    int16_t a[2 * VL], b[2 * VL];
    memcpy(a, &x, sizeof a);
    memcpy(b, &w, sizeof b);
    for (int j = 0; j < VL; j++) acc.v[j] += a[2 * j] * b[2 * j] + a[2 * j + 1] * b[2 * j + 1];
    return acc;
}
#endif

#if !defined(WIDE)
INLINE void fstore(float *p, fvec v, int lanes) { memcpy(p, &v, sizeof(float) * (size_t)lanes); }
INLINE fvec fload_part(const float *p, int lanes) {
    fvec v = fzero();
    memcpy(&v, p, sizeof(float) * (size_t)lanes);
    return v;
}
#endif

/* Lanes per vector, elements per dot product: native.py packs the weights accordingly. */
int32_t vector_lanes(void) { return VL; }
int32_t dot_step(void) { return KSTEP; }
const char *instruction_set(void) {
#if defined(WIDE) && KSTEP == 4
    return "AVX-512 VNNI";
#elif defined(WIDE)
    return "AVX-512";
#elif !defined(PLAIN) && KSTEP == 4
    return "AVX-VNNI";
#elif !defined(PLAIN)
    return "AVX2";
#else
    return "plain C";
#endif
}

/* ---- rounding to 16-bit floats ----------------------------------------------------------------- */

INLINE float bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits += 0x7fffu + ((bits >> 16) & 1u);
    bits &= 0xffff0000u;
    memcpy(&x, &bits, 4);
    return x;
}

#if !defined(__F16C__)
/* Half to even: adding and subtracting 2**13 ulp-scaled powers; subnormals use a fixed quantum. */
INLINE float f16(float x) {
    float magnitude = fabsf(x), quantum, rounded;
    int exponent;
    if (magnitude == 0) return x;
    frexpf(magnitude, &exponent);
    quantum = ldexpf(1.0f, exponent < -13 ? -24 : exponent - 11);
    rounded = rintf(magnitude / quantum) * quantum;
    if (rounded > 65504.0f) rounded = INFINITY;
    return copysignf(rounded, x);
}
#endif

static void round_storage(float *x, long n, int storage) {
    long j = 0;
    if (storage == BF16) {
        for (; j < n; j++) x[j] = bf16(x[j]);
    } else if (storage == F16) {
#if defined(__F16C__)
        for (; j + 8 <= n; j += 8)
            _mm256_storeu_ps(x + j, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(x + j), 0)));
        for (; j < n; j++) x[j] = _cvtsh_ss(_cvtss_sh(x[j], 0));
#else
        for (; j < n; j++) x[j] = f16(x[j]);
#endif
    }
}

INLINE float round_half_away(float x) {
    float whole = truncf(x);
    return whole + (fabsf(x - whole) >= 0.5f ? copysignf(1.0f, x) : 0.0f);
}

/* ---- convolution of bytes ---------------------------------------------------------------------- */

/* Constants of the requantization, each [padded output channels]. */
typedef struct {
    const int32_t *bias, *multiplier, *shift, *least, *most;
    const int64_t *half;
    const double *factor;
    int32_t low, high, add;
} Requant;

INLINE void requant_store(uint8_t *out, ivec acc, const Requant *q, long c, int lanes) {
#if defined(WIDE)
    __m512i v = _mm512_max_epi32(acc, iload(q->least + c));
    v = _mm512_min_epi32(v, iload(q->most + c));
    __m512i m = iload(q->multiplier + c), s = iload(q->shift + c);
    __m512i even = _mm512_mul_epi32(v, m);
    __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(v, 32), _mm512_srli_epi64(m, 32));
    /* half is stored as the eight even lanes, then the eight odd ones */
    even = _mm512_add_epi64(even, iload(q->half + c));
    odd = _mm512_add_epi64(odd, iload(q->half + c + 8));
    even = _mm512_srav_epi64(even, _mm512_and_si512(s, _mm512_set1_epi64(63)));
    odd = _mm512_srav_epi64(odd, _mm512_srli_epi64(s, 32));
    v = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    v = _mm512_add_epi32(v, _mm512_set1_epi32(q->add));
    v = _mm512_max_epi32(v, _mm512_set1_epi32(q->low));
    v = _mm512_min_epi32(v, _mm512_set1_epi32(q->high));
    _mm_mask_storeu_epi8(out, (__mmask16)((1u << lanes) - 1), _mm512_cvtepi32_epi8(v));
#else
    int32_t v[VL];
    memcpy(v, &acc, sizeof v);
    int32_t r[VL];
    for (int j = 0; j < VL; j++) {
        int32_t x = v[j] > q->least[c + j] ? v[j] : q->least[c + j];
        x = x < q->most[c + j] ? x : q->most[c + j];
        int32_t y = (int32_t)floor((double)x * q->factor[c + j] + 0.5) + q->add;
        y = y > q->low ? y : q->low;
        r[j] = y < q->high ? y : q->high;
    }
    for (int j = 0; j < lanes; j++) out[j] = (uint8_t)r[j];
#endif
}

/* NV vectors of output channels for MP pixels, all of the kernel. */
#define BYTE_TILE(NV, MP)                                                                         \
    static void byte_tile_##NV##_##MP(const elem *x, long step, const int8_t *weights,            \
                                      const int32_t *offsets, long groups, const Requant *q,      \
                                      long c, uint8_t *out, long out_step, int valid) {           \
        ivec acc[NV][MP];                                                                         \
        UNROLL for (int v = 0; v < NV; v++)                                                       \
            UNROLL for (int m = 0; m < MP; m++) acc[v][m] = iload(q->bias + c + v * VL);          \
        for (long g = 0; g < groups; g++) {                                                       \
            const elem *xg = x + offsets[g];                                                      \
            ivec w[NV];                                                                           \
            UNROLL for (int v = 0; v < NV; v++)                                                   \
                w[v] = iload(weights + (g * NV + v) * (long)sizeof(ivec));                        \
            UNROLL for (int m = 0; m < MP; m++) {                                                 \
                ivec b = ibroadcast(xg + m * step);                                               \
                UNROLL for (int v = 0; v < NV; v++) acc[v][m] = dot(acc[v][m], b, w[v]);          \
            }                                                                                     \
        }                                                                                         \
        UNROLL for (int v = 0; v < NV; v++) {                                                     \
            int lanes = valid - v * VL < VL ? valid - v * VL : VL;                                \
            UNROLL for (int m = 0; m < MP; m++)                                                   \
                requant_store(out + m * out_step + v * VL, acc[v][m], q, c + v * VL, lanes);      \
        }                                                                                         \
    }

/* The same for floats, one block of the reduction: the result is added to what is there. */
#define FLOAT_TILE(NV, MP)                                                                        \
    static void float_tile_##NV##_##MP(const float *x, long step, const float *weights,           \
                                       const int32_t *offsets, long begin, long end,              \
                                       const float *bias, int relu, float *out, long out_step,    \
                                       int valid) {                                               \
        fvec acc[NV][MP];                                                                         \
        UNROLL for (int v = 0; v < NV; v++) UNROLL for (int m = 0; m < MP; m++)                   \
            acc[v][m] = fzero();                                                                  \
        for (long g = begin; g < end; g++) {                                                      \
            const float *xg = x + offsets[g];                                                     \
            fvec w[NV];                                                                           \
            UNROLL for (int v = 0; v < NV; v++) w[v] = fload(weights + (g * NV + v) * VL);        \
            UNROLL for (int m = 0; m < MP; m++) {                                                 \
                fvec b = fbroadcast(xg + m * step);                                               \
                UNROLL for (int v = 0; v < NV; v++) acc[v][m] = ffma(b, w[v], acc[v][m]);         \
            }                                                                                     \
        }                                                                                         \
        UNROLL for (int v = 0; v < NV; v++) {                                                     \
            int lanes = valid - v * VL < VL ? valid - v * VL : VL;                                \
            UNROLL for (int m = 0; m < MP; m++) {                                                 \
                float *o = out + m * out_step + v * VL;                                           \
                fvec r = acc[v][m];                                                               \
                if (begin) r = fadd(fload_part(o, lanes), r);                                     \
                if (bias) r = fadd(r, fload(bias + v * VL));                                      \
                if (relu) r = frelu(r);                                                           \
                fstore(o, r, lanes);                                                              \
            }                                                                                     \
        }                                                                                         \
    }

#if defined(WIDE)
#define TILES(F) F(1, 1) F(1, 12) F(2, 1) F(2, 12) F(3, 1) F(3, 8) F(4, 1) F(4, 6) F(5, 1) F(5, 5)
#define PICK(T, NV, ONE)                                                                          \
    ((NV) == 1 ? ((ONE) ? T##_1_1 : T##_1_12) : (NV) == 2 ? ((ONE) ? T##_2_1 : T##_2_12)          \
     : (NV) == 3 ? ((ONE) ? T##_3_1 : T##_3_8) : (NV) == 4 ? ((ONE) ? T##_4_1 : T##_4_6)          \
     : ((ONE) ? T##_5_1 : T##_5_5))
static const int PIXELS[] = {0, 12, 12, 8, 6, 5};
int32_t most_vectors(void) { return 5; }
int32_t usual_vectors(void) { return 4; }
#else
#define TILES(F) F(1, 1) F(1, 8) F(2, 1) F(2, 6) F(3, 1) F(3, 4)
#define PICK(T, NV, ONE)                                                                          \
    ((NV) == 1 ? ((ONE) ? T##_1_1 : T##_1_8) : (NV) == 2 ? ((ONE) ? T##_2_1 : T##_2_6)            \
     : ((ONE) ? T##_3_1 : T##_3_4))
static const int PIXELS[] = {0, 8, 6, 4};
int32_t most_vectors(void) { return 3; }
int32_t usual_vectors(void) { return 2; }
#endif
TILES(BYTE_TILE)
TILES(FLOAT_TILE)

/* Geometry shared by both convolutions, in Op.i */
enum { IH, IW, IC, TOP, LEFT, BOTTOM, RIGHT, PAD, OH, OW, OC, OCS, SH, SW, GROUPS, BLOCKS, COPY,
       LOW, HIGH, ADD, RELU, STORAGE, PARTS };

/* Rows of output that can run as one, because the input is as wide as the output. */
static void runs(const int32_t *i, long n, long *images, long *rows, long *columns) {
    long ph = i[IH] + i[TOP] + i[BOTTOM], pw = i[IW] + i[LEFT] + i[RIGHT];
    *images = n, *rows = i[OH], *columns = i[OW];
    if (i[SW] == 1 && i[SH] == 1 && pw == i[OW]) {
        *columns *= *rows, *rows = 1;
        if (ph == i[OH]) *columns *= *images, *images = 1;
    }
}

static void convolve_bytes(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    const uint8_t *src = buffers[op->src[0]];
    uint8_t *dst = buffers[op->dst];
    long ph = i[IH] + i[TOP] + i[BOTTOM], pw = i[IW] + i[LEFT] + i[RIGHT], ic = i[IC];
    const elem *x;
    if (i[COPY]) {
        elem *copy = buffers[op->scratch];
        x = copy;
        for (long image = 0; image < n; image++)
            for (long r = 0; r < ph; r++, copy += pw * ic) {
                long from = r - i[TOP];
                if (from < 0 || from >= i[IH]) {
                    for (long j = 0; j < pw * ic; j++) copy[j] = (elem)i[PAD];
                    continue;
                }
                const uint8_t *row = src + ((image * i[IH]) + from) * i[IW] * ic;
                for (long j = 0; j < i[LEFT] * ic; j++) copy[j] = (elem)i[PAD];
                for (long j = 0; j < i[IW] * ic; j++) copy[i[LEFT] * ic + j] = row[j];
                for (long j = (i[LEFT] + i[IW]) * ic; j < pw * ic; j++) copy[j] = (elem)i[PAD];
            }
    } else {
        x = (const elem *)src;
    }
    Requant q = {.bias = op->p[2], .multiplier = op->p[3], .shift = op->p[4], .half = op->p[5],
                 .least = op->p[6], .most = op->p[7], .factor = op->p[8],
                 .low = i[LOW], .high = i[HIGH], .add = i[ADD]};
    const int32_t *offsets = op->p[1], *vectors = op->p[9];
    long images, rows, columns, step = i[SW] * ic;
    runs(i, n, &images, &rows, &columns);
    const int8_t *weights = op->p[0];
    long c = 0;
    for (int block = 0; block < i[BLOCKS]; block++) {
        int nv = vectors[block], mp = PIXELS[nv];
        int valid = i[OC] - c < (long)nv * VL ? (int)(i[OC] - c) : nv * VL;
        for (long image = 0; image < images; image++)
            for (long r = 0; r < rows; r++) {
                const elem *xr = x + (image * ph + r * i[SH]) * pw * ic;
                uint8_t *out = dst + (image * i[OH] + r) * i[OW] * (long)i[OCS] + c;
                long m = 0;
                for (; m < columns; m += mp) {
                    if (m + mp > columns) {
                        if (columns < mp) break;
                        m = columns - mp; /* the last tile overlaps the one before */
                    }
                    PICK(byte_tile, nv, 0)(xr + m * step, step, weights, offsets, i[GROUPS], &q, c,
                                           out + m * i[OCS], i[OCS], valid);
                }
                for (; m < columns; m++)
                    PICK(byte_tile, nv, 1)(xr + m * step, step, weights, offsets, i[GROUPS], &q, c,
                                           out + m * i[OCS], i[OCS], valid);
            }
        weights += (long)i[GROUPS] * nv * (long)sizeof(ivec);
        c += (long)nv * VL;
    }
    /* Padding channels: byte 0, and the weights that meet it are 0. */
    if (i[OCS] > i[OC])
        for (long p = 0; p < n * i[OH] * i[OW]; p++)
            memset(dst + p * i[OCS] + i[OC], 0, (size_t)(i[OCS] - i[OC]));
}

static void convolve_floats(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    const float *src = buffers[op->src[0]], *x = src;
    float *dst = buffers[op->dst];
    long ph = i[IH] + i[TOP] + i[BOTTOM], pw = i[IW] + i[LEFT] + i[RIGHT], ic = i[IC];
    if (i[COPY]) {
        float *copy = buffers[op->scratch];
        x = copy;
        memset(copy, 0, sizeof(float) * (size_t)(n * ph * pw * ic));
        for (long image = 0; image < n; image++)
            for (long r = 0; r < i[IH]; r++)
                memcpy(copy + ((image * ph + r + i[TOP]) * pw + i[LEFT]) * ic,
                       src + (image * i[IH] + r) * i[IW] * ic,
                       sizeof(float) * (size_t)(i[IW] * ic));
    }
    const int32_t *offsets = op->p[1], *starts = op->p[3], *vectors = op->p[9];
    const float *weights = op->p[0], *bias = op->p[2];
    long images, rows, columns, step = i[SW] * ic, c = 0;
    runs(i, n, &images, &rows, &columns);
    for (int block = 0; block < i[BLOCKS]; block++) {
        int nv = vectors[block], mp = PIXELS[nv];
        int valid = i[OC] - c < (long)nv * VL ? (int)(i[OC] - c) : nv * VL;
        for (int part = 0; part < i[PARTS]; part++) {
            int last = part == i[PARTS] - 1;
            const float *part_bias = last && bias ? bias + c : 0;
            for (long image = 0; image < images; image++)
                for (long r = 0; r < rows; r++) {
                    const float *xr = x + (image * ph + r * i[SH]) * pw * ic;
                    float *out = dst + (image * i[OH] + r) * i[OW] * (long)i[OC] + c;
                    long m = 0;
                    /* No overlap here: a later part adds to what the earlier one left. */
                    for (; m + mp <= columns; m += mp)
                        PICK(float_tile, nv, 0)(xr + m * step, step, weights, offsets, starts[part],
                                                starts[part + 1], part_bias, last && i[RELU],
                                                out + m * i[OC], i[OC], valid);
                    for (; m < columns; m++)
                        PICK(float_tile, nv, 1)(xr + m * step, step, weights, offsets, starts[part],
                                                starts[part + 1], part_bias, last && i[RELU],
                                                out + m * i[OC], i[OC], valid);
                }
        }
        weights += (long)i[GROUPS] * nv * VL;
        c += (long)nv * VL;
    }
    round_storage(dst, n * i[OH] * i[OW] * (long)i[OC], i[STORAGE]);
}

/* ---- pooling ------------------------------------------------------------------------------------ */

enum { P_IH, P_IW, P_C, P_OH, P_OW, P_KH, P_KW, P_SH, P_SW, P_OFF_IN, P_MUL, P_SHIFT, P_LOW, P_HIGH,
       P_ADD, P_STORAGE, P_MODE };
enum { MAX_BYTES, MAX_FLOATS, MEAN_BYTES, MEAN_AFFINE, MEAN_FLOATS };

static void pool(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    long c = i[P_C];
    int32_t sums[4096];
    for (long p = 0; p < n * i[P_OH] * i[P_OW]; p++) {
        long image = p / (i[P_OH] * i[P_OW]), r = p / i[P_OW] % i[P_OH], w = p % i[P_OW];
        long first = ((image * i[P_IH] + r * i[P_SH]) * i[P_IW] + w * i[P_SW]) * c;
        const uint8_t *xb = (const uint8_t *)buffers[op->src[0]] + first;
        const float *xf = (const float *)buffers[op->src[0]] + first;
        uint8_t *ob = (uint8_t *)buffers[op->dst] + p * c;
        float *of = (float *)buffers[op->dst] + p * c;
        if (i[P_MODE] == MAX_BYTES) {
            memcpy(ob, xb, (size_t)c);
            for (int a = 0; a < i[P_KH]; a++)
                for (int b = 0; b < i[P_KW]; b++) {
                    const uint8_t *y = xb + (a * i[P_IW] + b) * c;
                    for (long j = 0; j < c; j++) ob[j] = ob[j] > y[j] ? ob[j] : y[j];
                }
        } else if (i[P_MODE] == MAX_FLOATS) {
            memcpy(of, xf, sizeof(float) * (size_t)c);
            for (int a = 0; a < i[P_KH]; a++)
                for (int b = 0; b < i[P_KW]; b++) {
                    const float *y = xf + (a * i[P_IW] + b) * c;
                    for (long j = 0; j < c; j++) of[j] = of[j] > y[j] ? of[j] : y[j];
                }
        } else if (i[P_MODE] == MEAN_FLOATS) {
            memcpy(of, xf, sizeof(float) * (size_t)c);
            for (int a = 0; a < i[P_KH]; a++)
                for (int b = 0; b < i[P_KW]; b++) {
                    const float *y = xf + (a * i[P_IW] + b) * c;
                    if (a + b)
                        for (long j = 0; j < c; j++) of[j] += y[j];
                }
            float count = (float)(i[P_KH] * i[P_KW]);
            for (long j = 0; j < c; j++) of[j] /= count;
            round_storage(of, c, i[P_STORAGE]);
        } else {
            int32_t count = i[P_KH] * i[P_KW], start = -i[P_OFF_IN] * count;
            for (long j = 0; j < c; j++) sums[j] = start;
            for (int a = 0; a < i[P_KH]; a++)
                for (int b = 0; b < i[P_KW]; b++) {
                    const uint8_t *y = xb + (a * i[P_IW] + b) * c;
                    for (long j = 0; j < c; j++) sums[j] += y[j];
                }
            if (i[P_MODE] == MEAN_BYTES) {
                int32_t m = i[P_MUL], s = i[P_SHIFT], half = s ? 1 << (s - 1) : 0;
                for (long j = 0; j < c; j++) {
                    int32_t v = ((sums[j] * m + half) >> s) + i[P_ADD];
                    v = v > i[P_LOW] ? v : i[P_LOW];
                    ob[j] = (uint8_t)(v < i[P_HIGH] ? v : i[P_HIGH]);
                }
            } else {
                const double *affine = op->p[0];
                for (long j = 0; j < c; j++) {
                    float mean = (float)sums[j] / (float)count;
                    mean = mean * (float)i[P_KH] * (float)i[P_KW];
                    float v = round_half_away((float)((double)mean * affine[0] + affine[1]));
                    v += (float)i[P_ADD];
                    v = v > (float)i[P_LOW] ? v : (float)i[P_LOW];
                    ob[j] = (uint8_t)(v < (float)i[P_HIGH] ? v : (float)i[P_HIGH]);
                }
            }
        }
    }
}

/* ---- element by element --------------------------------------------------------------------------- */

/* Images come as rows of channels planes; x[image][c][pixel] -> y[image][pixel][c]. */
enum { L_C, L_PIXELS, L_STRIDE, L_STORAGE };

static void input_floats(const Op *op, void **buffers, long n) {
    long c = op->i[L_C], pixels = op->i[L_PIXELS];
    const float *x = buffers[op->src[0]];
    float *y = buffers[op->dst];
    for (long image = 0; image < n; image++)
        for (long k = 0; k < c; k++)
            for (long p = 0; p < pixels; p++)
                y[(image * pixels + p) * c + k] = x[(image * c + k) * pixels + p];
}

static void input_bytes(const Op *op, void **buffers, long n) {
    long c = op->i[L_C], pixels = op->i[L_PIXELS], stride = op->i[L_STRIDE];
    const uint8_t *x = buffers[op->src[0]];
    uint8_t *y = buffers[op->dst];
    memset(y, 0, (size_t)(n * pixels * stride));
    for (long image = 0; image < n; image++)
        for (long k = 0; k < c; k++)
            for (long p = 0; p < pixels; p++)
                y[(image * pixels + p) * stride + k] = x[(image * c + k) * pixels + p];
}

enum { Q_C, Q_PIXELS, Q_STRIDE, Q_LOW, Q_HIGH, Q_ADD, Q_EXPRESSED };

static void quantize(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    long c = i[Q_C], stride = i[Q_STRIDE];
    const float *x = buffers[op->src[0]];
    uint8_t *y = buffers[op->dst];
    float inverse = op->f[0], row[4096];
    float low = (float)i[Q_LOW], high = (float)i[Q_HIGH], add = (float)i[Q_ADD];
    for (long p = 0; p < n * i[Q_PIXELS]; p++, x += c, y += stride) {
        for (long j = 0; j < c; j++) row[j] = x[j] * inverse;
        round_storage(row, c, i[Q_EXPRESSED]);
        for (long j = 0; j < c; j++) {
            float v = round_half_away(row[j]) + add;
            v = v > low ? v : low;
            v = v < high ? v : high;
            y[j] = (uint8_t)(int32_t)v;
        }
        for (long j = c; j < stride; j++) y[j] = 0;
    }
}

/* bytes -> floats or bytes by a table of 256 */
static void lookup(const Op *op, void **buffers, long n) {
    long c = op->i[L_C], pixels = n * op->i[L_PIXELS], stride = op->i[L_STRIDE];
    const uint8_t *x = buffers[op->src[0]];
    if (op->p[0]) {
        const float *table = op->p[0];
        float *y = buffers[op->dst];
        for (long p = 0; p < pixels; p++, x += stride, y += c)
            for (long j = 0; j < c; j++) y[j] = table[x[j]];
    } else {
        const uint8_t *table = op->p[1];
        uint8_t *y = buffers[op->dst];
        for (long p = 0; p < pixels; p++, x += stride, y += stride) {
            for (long j = 0; j < c; j++) y[j] = table[x[j]];
            for (long j = c; j < stride; j++) y[j] = 0;
        }
    }
}

enum { S_C, S_STRIDE, S_PIXELS, S_OFF_IN, S_MIN, S_MAX, S_LOW, S_HIGH, S_ADD };

static void channel_scale(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i, *scale = op->p[0], *bias = op->p[1], *shift = op->p[2];
    long c = i[S_C], stride = i[S_STRIDE];
    const uint8_t *x = buffers[op->src[0]];
    uint8_t *y = buffers[op->dst];
    int32_t off = i[S_OFF_IN], least = i[S_MIN], most = i[S_MAX];
    int32_t low = i[S_LOW], high = i[S_HIGH], add = i[S_ADD];
    for (long p = 0; p < n * i[S_PIXELS]; p++, x += stride, y += stride)
        for (long j = 0; j < c; j++) {
            int32_t v = ((int32_t)x[j] - off) * scale[j] + bias[j];
            v = v > least ? v : least;
            v = v < most ? v : most;
            v = (v >> shift[j]) + add;
            v = v > low ? v : low;
            y[j] = (uint8_t)(v < high ? v : high);
        }
}

static void float_scale(const Op *op, void **buffers, long n) {
    const float *scale = op->p[0], *bias = op->p[1], *x = buffers[op->src[0]];
    float *y = buffers[op->dst];
    long c = op->i[0];
    for (long p = 0; p < n * op->i[1]; p++, x += c, y += c)
        for (long j = 0; j < c; j++) {
            float v = x[j] * scale[j] + bias[j];
            y[j] = op->i[2] ? (v > 0 ? v : 0) : v;
        }
}

/* i: elements per image, storage, images that share one divisor (0: same shape) */
static void multiply_floats(const Op *op, void **buffers, long n) {
    const float *a = buffers[op->src[0]], *b = buffers[op->src[1]];
    float *y = buffers[op->dst];
    long count = n * op->i[0];
    for (long j = 0; j < count; j++) y[j] = a[j] * b[j];
    round_storage(y, count, op->i[1]);
}

static void divide(const Op *op, void **buffers, long n) {
    const float *a = buffers[op->src[0]], *b = buffers[op->src[1]];
    float *y = buffers[op->dst];
    long size = op->i[0], shared = op->i[2];
    for (long image = 0; image < n; image++) {
        float divisor = b[image / shared];
        for (long j = 0; j < size; j++) y[image * size + j] = a[image * size + j] / divisor;
    }
    round_storage(y, n * size, op->i[1]);
}

static void float_cast(const Op *op, void **buffers, long n) {
    long count = n * op->i[0];
    memcpy(buffers[op->dst], buffers[op->src[0]], sizeof(float) * (size_t)count);
    round_storage(buffers[op->dst], count, op->i[1]);
}

/* i: channels, pixels, storage, images of a group. One accumulator for a group, channel by channel,
 * pixel by pixel, as the values lie in the interpreter's memory; four groups side by side. */
static void mean_all(const Op *op, void **buffers, long n) {
    long c = op->i[0], pixels = op->i[1], shared = op->i[3], groups = n / shared;
    long size = c * pixels * shared;
    const float *x = buffers[op->src[0]];
    float *y = buffers[op->dst];
    for (long g = 0; g < groups; g += 4) {
        long g1 = g + 1 < groups ? g + 1 : g, g2 = g + 2 < groups ? g + 2 : g;
        long g3 = g + 3 < groups ? g + 3 : g;
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (long image = 0; image < shared; image++)
            for (long k = 0; k < c; k++)
                for (long p = 0; p < pixels; p++) {
                    const float *at = x + (image * pixels + p) * c + k;
                    s0 += at[g * size], s1 += at[g1 * size];
                    s2 += at[g2 * size], s3 += at[g3 * size];
                }
        y[g] = s0 * op->f[0], y[g1] = g1 > g ? s1 * op->f[0] : y[g1];
        if (g2 > g) y[g2] = s2 * op->f[0];
        if (g3 > g) y[g3] = s3 * op->f[0];
    }
    round_storage(y, groups, op->i[2]);
}

/* i: channels, rows, columns, storage: mean over rows */
static void mean_rows(const Op *op, void **buffers, long n) {
    long c = op->i[0], rows = op->i[1], columns = op->i[2];
    const float *x = buffers[op->src[0]];
    float *y = buffers[op->dst];
    for (long image = 0; image < n; image++, x += rows * columns * c, y += columns * c) {
        for (long j = 0; j < columns * c; j++) y[j] = 0.0f;
        for (long r = 0; r < rows; r++)
            for (long j = 0; j < columns * c; j++) y[j] += x[r * columns * c + j];
        for (long j = 0; j < columns * c; j++) y[j] *= op->f[0];
    }
    round_storage(buffers[op->dst], n * columns * c, op->i[3]);
}

/* i: pixels, bytes per channel, stride of the result (channels), then channels of each operand */
static void concat(const Op *op, void **buffers, long n) {
    long pixels = n * op->i[0], width = op->i[1], stride = op->i[2] * width, at = 0;
    for (int s = 0; s < op->n_src; s++) {
        long part = op->i[3 + s] * width;
        const uint8_t *x = buffers[op->src[s]];
        uint8_t *y = (uint8_t *)buffers[op->dst] + at;
        for (long p = 0; p < pixels; p++) memcpy(y + p * stride, x + p * part, (size_t)part);
        at += part;
    }
}

/* i: input rows, columns, channel stride; output rows, columns, channels, stride;
 * offsets and steps of channel, row, column; bytes per channel */
static void slice(const Op *op, void **buffers, long n) {
    const int32_t *i = op->i;
    long ih = i[0], iw = i[1], is = i[2], oh = i[3], ow = i[4], oc = i[5], os = i[6];
    for (long p = 0; p < n * oh * ow; p++) {
        long image = p / (oh * ow), r = p / ow % oh, w = p % ow;
        long from = ((image * ih + i[8] + r * i[11]) * iw + i[9] + w * i[12]) * is + i[7];
        if (i[13] == 1) {
            const uint8_t *x = (const uint8_t *)buffers[op->src[0]] + from;
            uint8_t *y = (uint8_t *)buffers[op->dst] + p * os;
            if (i[10] == 2)
                for (long j = 0; j < oc; j++) y[j] = x[2 * j];
            else if (i[10] == 4)
                for (long j = 0; j < oc; j++) y[j] = x[4 * j];
            else
                for (long j = 0; j < oc; j++) y[j] = x[i[10] * j];
            for (long j = oc; j < os; j++) y[j] = 0;
        } else {
            const float *x = (const float *)buffers[op->src[0]] + from;
            float *y = (float *)buffers[op->dst] + p * os;
            for (long j = 0; j < oc; j++) y[j] = x[i[10] * j];
        }
    }
}

typedef void (*Kernel)(const Op *, void **, long);
static const Kernel KERNELS[] = {
    input_floats, input_bytes, convolve_bytes, convolve_floats, pool, quantize, lookup, channel_scale,
    float_scale, multiply_floats, divide, float_cast, mean_all, mean_rows, concat, slice};

/* Run a program on n images. */
void run_program(const Op *ops, long count, void **buffers, long n) {
    for (long k = 0; k < count; k++) KERNELS[ops[k].kind](ops + k, buffers, n);
}

int32_t op_size(void) { return (int32_t)sizeof(Op); }
