// Reads the plates in a folder of images with an LPRNet BModel.
//
//     lprnet --input FOLDER --bmodel FILE [--dev_id 0] [--output results.json]
//
// The same steps as the Python package takes, and the same JSON: {"file name": "plate"}.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "runtime.hpp"

namespace fs = std::filesystem;

namespace {

constexpr int kHeight = 24, kWidth = 94, kChannels = 3;
constexpr float kMean = 127.5f, kScale = 0.0078125f;
constexpr int kBlank = 67;
const std::array<const char *, kBlank> kClasses = {
    "京", "沪", "津", "渝", "冀", "晋", "蒙", "辽", "吉", "黑", "苏", "浙", "皖", "闽", "赣", "鲁", "豫",
    "鄂", "湘", "粤", "桂", "琼", "川", "贵", "云", "藏", "陕", "甘", "青", "宁", "新", "0", "1", "2",
    "3", "4", "5", "6", "7", "8", "9", "A", "B", "C", "D", "E", "F", "G", "H", "J", "K",
    "L", "M", "N", "P", "Q", "R", "S", "T", "U", "V", "W", "X", "Y", "Z", "I", "O"};

constexpr const char *kUsage =
    "Reads the plates in a folder of images with an LPRNet BModel.\n\n"
    "    lprnet --input FOLDER --bmodel FILE [--dev_id 0] [--output results.json]\n\n"
    "  --input    folder of plate crops (.jpg, .jpeg, .png, .bmp)\n"
    "  --bmodel   BModel with float inputs and outputs\n"
    "  --dev_id   number of the device, 0 by default\n"
    "  --output   JSON file to write, {\"file name\": \"plate\"}\n";

struct Options {
    fs::path input, bmodel, output = "results.json";
    int device = 0;
    bool help = false;
};

// Seconds in the vendor's columns.
struct Timings {
    double decode = 0, preprocess = 0, inference = 0, postprocess = 0;
};

class Timer {
public:
    explicit Timer(double &seconds) : seconds_(seconds) {}
    ~Timer() { seconds_ += std::chrono::duration<double>(Clock::now() - start_).count(); }

private:
    using Clock = std::chrono::steady_clock;
    double &seconds_;
    Clock::time_point start_ = Clock::now();
};

Options parse(int count, char **arguments) {
    Options options;
    for (int i = 1; i < count; i += 2) {
        const std::string name = arguments[i];
        if (name == "--help" || name == "-h") {
            options.help = true;
            return options;
        }
        if (i + 1 == count)
            throw std::invalid_argument("option " + name + " lacks its value");
        const std::string value = arguments[i + 1];
        if (name == "--input")
            options.input = value;
        else if (name == "--bmodel")
            options.bmodel = value;
        else if (name == "--output")
            options.output = value;
        else if (name == "--dev_id")
            options.device = std::stoi(value);
        else
            throw std::invalid_argument("unknown option " + name +
                                        "; there are --input --bmodel --dev_id --output");
    }
    if (!fs::is_directory(options.input))
        throw std::invalid_argument("--input: " + options.input.string() + " is no folder");
    if (!fs::is_regular_file(options.bmodel))
        throw std::invalid_argument("--bmodel: " + options.bmodel.string() + " is no file");
    return options;
}

std::vector<fs::path> images_in(const fs::path &folder) {
    std::vector<fs::path> found;
    for (const auto &entry : fs::directory_iterator(folder)) {
        std::string suffix = entry.path().extension().string();
        std::transform(suffix.begin(), suffix.end(), suffix.begin(), ::tolower);
        if (suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png" || suffix == ".bmp")
            found.push_back(entry.path());
    }
    if (found.empty())
        throw std::runtime_error(folder.string() + " has no image");
    std::sort(found.begin(), found.end());
    return found;
}

cv::Mat decode_image(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
    cv::Mat image = bytes.empty() ? cv::Mat() : cv::imdecode(bytes, cv::IMREAD_COLOR);
    if (image.empty())
        throw std::runtime_error(path.string() + " cannot be decoded as an image");
    return image;
}

// Plain resize and (x - 127.5) / 128, BGR kept, planes one after the other.
void preprocess(const cv::Mat &image, float *planes) {
    cv::Mat fitted = image;
    if (image.rows != kHeight || image.cols != kWidth)
        cv::resize(image, fitted, {kWidth, kHeight});
    for (int channel = 0; channel < kChannels; ++channel)
        for (int y = 0; y < kHeight; ++y)
            for (int x = 0; x < kWidth; ++x)
                *planes++ = (fitted.at<cv::Vec3b>(y, x)[channel] - kMean) * kScale;
}

// CTC: the best class of each step, repeats collapsed, blanks dropped.
std::string greedy(const float *logits, int steps) {
    std::string text;
    int last = kBlank;
    for (int step = 0; step < steps; ++step) {
        int best = 0;
        for (int label = 1; label <= kBlank; ++label)
            if (logits[label * steps + step] > logits[best * steps + step])
                best = label;
        if (best != last && best != kBlank)
            text += kClasses[best];
        last = best;
    }
    return text;
}

std::string quoted(const std::string &text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\')
            result += '\\';
        if (static_cast<unsigned char>(c) < 0x20) {
            char escape[7];
            std::snprintf(escape, sizeof escape, "\\u%04x", c);
            result += escape;
        } else {
            result += c;
        }
    }
    return result + '"';
}

std::map<std::string, std::string> read_plates(const Network &network,
                                               const std::vector<fs::path> &files,
                                               Timings &timings) {
    const int batch = network.input().dims[0], steps = network.output().dims[2];
    const std::size_t pixels = kChannels * kHeight * kWidth;
    std::map<std::string, std::string> plates;
    for (std::size_t first = 0; first < files.size(); first += batch) {
        std::vector<cv::Mat> images;
        std::vector<float> input(batch * pixels), logits;
        {
            Timer timer(timings.decode);
            for (std::size_t i = first; i < std::min(files.size(), first + batch); ++i)
                images.push_back(decode_image(files[i]));
        }
        {
            Timer timer(timings.preprocess);
            for (int i = 0; i < batch; ++i)  // a batch that is not full repeats its last image
                preprocess(images[std::min<std::size_t>(i, images.size() - 1)],
                           &input[i * pixels]);
        }
        {
            Timer timer(timings.inference);
            logits = network.run(input);
        }
        {
            Timer timer(timings.postprocess);
            for (std::size_t i = 0; i < images.size(); ++i)
                plates[files[first + i].filename().string()] =
                    greedy(&logits[i * (kBlank + 1) * steps], steps);
        }
    }
    return plates;
}

void write_json(const fs::path &path, const std::map<std::string, std::string> &plates) {
    std::ofstream file(path);
    const char *separator = "{";
    for (const auto &[name, plate] : plates) {
        file << separator << "\n " << quoted(name) << ": " << quoted(plate);
        separator = ",";
    }
    file << "\n}\n";
    file.close();
    if (!file)
        throw std::runtime_error("cannot write " + path.string());
}

}  // namespace

int main(int count, char **arguments) {
    try {
        const Options options = parse(count, arguments);
        if (options.help) {
            std::cout << kUsage;
            return 0;
        }
        const std::vector<fs::path> files = images_in(options.input);
        const Network network(options.bmodel.string(), options.device);
        const auto &in = network.input(), &out = network.output();
        if (in.num_dims != 4 || in.dims[1] != kChannels || in.dims[2] != kHeight ||
            in.dims[3] != kWidth || out.num_dims != 3 || out.dims[1] != kBlank + 1)
            throw std::runtime_error(options.bmodel.string() + " is not LPRNet");
        Timings timings;
        write_json(options.output, read_plates(network, files, timings));
        const double scale = 1000.0 / files.size();
        std::printf("%zu images, ms each: decode %.3f, preprocess %.3f, inference %.3f, "
                    "postprocess %.3f\n", files.size(), scale * timings.decode,
                    scale * timings.preprocess, scale * timings.inference,
                    scale * timings.postprocess);
    } catch (const std::exception &error) {
        std::cerr << "lprnet: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
