// Sophgo's runtime, as much of it as a static float network needs, behind one class.
//
// The declarations are those of bmlib_runtime.h and bmruntime_interface.h; both libraries keep
// this C interface on every chip and on the chip simulator.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
struct bm_shape_t { int num_dims; int dims[8]; };
struct bm_stage_info_t { bm_shape_t *input_shapes, *output_shapes; void *input_mems, *output_mems; };
struct bm_net_info_t {
    const char *name;
    bool is_dynamic;
    int input_num;
    const char **input_names;
    int *input_dtypes;
    float *input_scales;
    int output_num;
    const char **output_names;
    int *output_dtypes;
    float *output_scales;
    int stage_num;
    bm_stage_info_t *stages;
};
int bm_dev_request(void **handle, int device);
void bm_dev_free(void *handle);
void *bmrt_create(void *handle);
void bmrt_destroy(void *runtime);
bool bmrt_load_bmodel(void *runtime, const char *path);
int bmrt_get_network_number(void *runtime);
void bmrt_get_network_names(void *runtime, const char ***names);
const bm_net_info_t *bmrt_get_network_info(void *runtime, const char *name);
bool bmrt_launch_data(void *runtime, const char *name, void *const inputs[],
                      const bm_shape_t input_shapes[], int input_num, void *outputs[],
                      bm_shape_t output_shapes[], int output_num, bool user_memory);
}
extern "C" void free(void *);

// A BModel with one network of one float input and one float output, on one device.
class Network {
public:
    Network(const std::string &bmodel, int device) {
        void *handle = nullptr;
        if (bm_dev_request(&handle, device) != 0)
            throw std::runtime_error("device " + std::to_string(device) + " cannot be opened");
        device_.reset(handle);
        runtime_.reset(bmrt_create(handle));
        if (!runtime_ || !bmrt_load_bmodel(runtime_.get(), bmodel.c_str()))
            throw std::runtime_error("the runtime refuses " + bmodel +
                                     ": is it a BModel, and for this chip?");
        const char **names = nullptr;
        bmrt_get_network_names(runtime_.get(), &names);
        name_ = names[0];
        free(names);
        const bm_net_info_t *info = bmrt_get_network_info(runtime_.get(), name_.c_str());
        if (!info || info->input_num != 1 || info->output_num != 1 || info->input_dtypes[0] != 0 ||
            info->output_dtypes[0] != 0)
            throw std::runtime_error(bmodel + " is not a network of one float32 input and output");
        for (int stage = 0; stage < info->stage_num; ++stage) {
            const bm_shape_t &shape = info->stages[stage].input_shapes[0];
            if (stage == 0 || shape.dims[0] > input_.dims[0]) {
                input_ = shape;
                output_ = info->stages[stage].output_shapes[0];
            }
        }
    }

    // Shapes of the stage with the largest batch.
    const bm_shape_t &input() const { return input_; }
    const bm_shape_t &output() const { return output_; }

    std::vector<float> run(const std::vector<float> &input) const {
        if (input.size() != count(input_))
            throw std::invalid_argument("the input has the wrong size");
        std::vector<float> output(count(output_));
        void *inputs[] = {const_cast<float *>(input.data())};
        void *outputs[] = {output.data()};
        bm_shape_t found = output_;
        if (!bmrt_launch_data(runtime_.get(), name_.c_str(), inputs, &input_, 1, outputs, &found, 1,
                              true))
            throw std::runtime_error("the runtime failed to run " + name_);
        return output;
    }

    static std::size_t count(const bm_shape_t &shape) {
        std::size_t all = 1;
        for (int i = 0; i < shape.num_dims; ++i)
            all *= shape.dims[i];
        return all;
    }

private:
    struct FreeDevice { void operator()(void *handle) const { bm_dev_free(handle); } };
    struct FreeRuntime { void operator()(void *runtime) const { bmrt_destroy(runtime); } };

    std::unique_ptr<void, FreeDevice> device_;
    std::unique_ptr<void, FreeRuntime> runtime_;  // after the device, so that it goes first
    std::string name_;
    bm_shape_t input_{}, output_{};
};
