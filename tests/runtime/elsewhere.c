/* The kernels as a program of their own, for a processor that is emulated: reads instructions,
 * constants and buffers from a file, runs them, and writes the buffers to another.
 *
 * The file, in int64: numbers of instructions, constants, buffers, images; bytes of each constant
 * and buffer; then the instructions, whose pointers are 1 + the index of a constant, and the bytes
 * of constants and buffers. */
#include <stdio.h>
#include <stdlib.h>

#include SOURCE

static void *taken(FILE *file, size_t size) {
    void *block = aligned_alloc(64, (size + 127) / 64 * 64);
    if (!block || fread(block, 1, size, file) != size) exit(3);
    return block;
}

int main(int count, char **given) {
    if (count != 3) {
        printf("%d %d %d %d %d %s\n", vector_lanes(), dot_step(), most_vectors(),
               usual_vectors(), op_size(), instruction_set());
        return 0;
    }
    FILE *file = fopen(given[1], "rb");
    if (!file) return 2;
    int64_t *head = taken(file, 4 * sizeof(int64_t));
    int64_t ops = head[0], constants = head[1], buffers = head[2], images = head[3];
    int64_t *sizes = taken(file, (constants + buffers) * sizeof(int64_t));
    Op *program = taken(file, ops * sizeof(Op));
    void **blocks = malloc((constants + buffers) * sizeof(void *));
    for (int64_t k = 0; k < constants + buffers; k++) blocks[k] = taken(file, sizes[k]);
    fclose(file);
    for (int64_t k = 0; k < ops; k++)
        for (int p = 0; p < 11; p++)
            if (program[k].p[p]) program[k].p[p] = blocks[(int64_t)program[k].p[p] - 1];
    run_program(program, ops, blocks + constants, images);
    file = fopen(given[2], "wb");
    for (int64_t k = constants; k < constants + buffers; k++)
        fwrite(blocks[k], 1, sizes[k], file);
    return fclose(file);
}
