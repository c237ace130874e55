// Reads the plates in a folder of images with an LPRNet BModel.
//
//     lprnet --input FOLDER --bmodel FILE [--dev_id 0] [--output results.json] [--details]
//
// The same steps as the Python package takes, and the same JSON: {"file name": "plate"}; with
// --details what `lprnet-nb infer --details` writes, its confidence as the network gives it.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
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
    "    lprnet --input FOLDER --bmodel FILE [--dev_id 0] [--output results.json] [--details]\n\n"
    "  --input    folder of plate crops (.jpg, .jpeg, .png, .bmp)\n"
    "  --bmodel   BModel with float inputs and outputs\n"
    "  --dev_id   number of the device, 0 by default\n"
    "  --output   JSON file to write, {\"file name\": \"plate\"}; CSV by its suffix .csv\n"
    "  --details  with each plate its confidence, that of each character, the second choice and\n"
    "             whether it is a plate (GA 36-2018); and the time of each stage\n";

struct Options {
    fs::path input, bmodel, output = "results.json";
    int device = 0;
    bool help = false, details = false;
};

// A plate as it was read. The confidence is the probability of the text, summed over all paths; a
// character's is the largest probability of its class where the best path has it.
struct Reading {
    std::string plate, second;
    std::vector<double> characters;
    double confidence = 0;
    bool grammar = false;
};

using Readings = std::map<std::string, Reading>;

// Seconds in the vendor's columns.
struct Timings {
    double decode = 0, preprocess = 0, inference = 0, postprocess = 0;

    // Milliseconds an image.
    std::vector<std::pair<std::string, double>> each(std::size_t images) const {
        const double scale = 1000.0 / images;
        return {{"decode", scale * decode}, {"preprocess", scale * preprocess},
                {"inference", scale * inference}, {"postprocess", scale * postprocess}};
    }
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
    for (int i = 1; i < count; ++i) {
        const std::string name = arguments[i];
        if (name == "--help" || name == "-h") {
            options.help = true;
            return options;
        }
        if (name == "--details") {
            options.details = true;
            continue;
        }
        if (i + 1 == count)
            throw std::invalid_argument("option " + name + " lacks its value");
        const std::string value = arguments[++i];
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
                                        "; there are --input --bmodel --dev_id --output "
                                        "--details");
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

// Whether a picture of so many pixels cannot be the crop of a plate; as in lprnet_nb.
bool is_scene(const cv::Mat &image) {
    const std::pair<int, double> kinds[] = {{40, 1.2}, {200, 1.9}, {480, 2.5}};
    for (const auto &[least, ratio] : kinds)
        if (image.rows >= least && image.cols < ratio * image.rows)
            return true;
    return false;
}

cv::Mat decode_image(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
    cv::Mat image = bytes.empty() ? cv::Mat() : cv::imdecode(bytes, cv::IMREAD_COLOR);
    if (image.empty())
        throw std::runtime_error(path.string() + " cannot be decoded as an image");
    if (is_scene(image))
        throw std::runtime_error(path.string() + " has the shape of a whole scene and not of a "
                                 "plate; cut the plate out of it first");
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

// Probabilities of the classes at each step, [steps][classes].
std::vector<std::vector<double>> softmax(const float *logits, int steps) {
    std::vector<std::vector<double>> found(steps, std::vector<double>(kBlank + 1));
    for (int step = 0; step < steps; ++step) {
        double top = logits[step], sum = 0;
        for (int label = 0; label <= kBlank; ++label)
            top = std::max<double>(top, logits[label * steps + step]);
        for (int label = 0; label <= kBlank; ++label)
            sum += found[step][label] = std::exp(logits[label * steps + step] - top);
        for (double &value : found[step])
            value /= sum;
    }
    return found;
}

// CTC: repeats collapsed, blanks dropped.
std::vector<int> collapse(const std::vector<int> &path) {
    std::vector<int> text;
    int last = kBlank;
    for (const int label : path) {
        if (label != last && label != kBlank)
            text.push_back(label);
        last = label;
    }
    return text;
}

std::string written(const std::vector<int> &text) {
    std::string result;
    for (const int label : text)
        result += kClasses[label];
    return result;
}

// Probability of a text over all its paths: the forward recursion of Graves et al. 2006, 4.1.
double text_probability(const std::vector<std::vector<double>> &probs,
                        const std::vector<int> &text) {
    std::vector<int> states{kBlank};
    for (const int label : text) {
        states.push_back(label);
        states.push_back(kBlank);
    }
    std::vector<double> alpha(states.size());
    for (std::size_t step = 0; step < probs.size(); ++step) {
        std::vector<double> next(states.size());
        for (std::size_t s = 0; s < states.size(); ++s) {
            double sum = step ? alpha[s] : s < 2;
            if (step && s > 0)
                sum += alpha[s - 1];
            if (step && s > 1 && states[s] != kBlank && states[s] != states[s - 2])
                sum += alpha[s - 2];
            next[s] = sum * probs[step][states[s]];
        }
        alpha = next;
    }
    const double all = alpha.back() + (states.size() > 1 ? alpha[states.size() - 2] : 0);
    return std::min(all, 1.0);
}

// What the best path reads when one step takes its second class, at the least loss.
std::vector<int> second_choice(const std::vector<std::vector<double>> &probs,
                               const std::vector<int> &best, const std::vector<int> &text) {
    std::vector<int> found;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t step = 0; step < best.size(); ++step) {
        int other = best[step] ? 0 : 1;
        for (int label = 0; label <= kBlank; ++label)
            if (label != best[step] && probs[step][label] > probs[step][other])
                other = label;
        std::vector<int> path = best;
        path[step] = other;
        const std::vector<int> reads = collapse(path);
        const double loss = std::log(probs[step][best[step]] / probs[step][other]);
        if (reads != text && loss < least) {
            least = loss;
            found = reads;
        }
    }
    return found;
}

bool is_province(int label) { return label < 31; }
bool is_digit(int label) { return 31 <= label && label < 41; }
bool is_letter(int label) { return 41 <= label && label < 65; }  // neither I nor O

// An ordinary or a new-energy plate, GA 36-2018.
bool is_plate(const std::vector<int> &text) {
    const std::size_t size = text.size();
    if ((size != 7 && size != 8) || !is_province(text[0]) || !is_letter(text[1]))
        return false;
    int letters = 0;
    for (std::size_t i = 2; i < size; ++i) {
        if (!is_digit(text[i]) && !is_letter(text[i]))
            return false;
        letters += is_letter(text[i]);
    }
    if (size == 7)
        return letters <= 2;
    const std::string kind = kClasses[text[2]], end = kClasses[text[7]];
    const bool small = kind.find_first_of("ABCDEFGHJK") == 0 && letters == 1 + is_letter(text[3]);
    return small || (letters == 1 && (end == "D" || end == "F"));
}

// The best class of each step, collapsed, and how sure that is.
Reading read_plate(const float *logits, int steps) {
    const auto probs = softmax(logits, steps);
    std::vector<int> best(steps);
    for (int step = 0; step < steps; ++step)
        for (int label = 1; label <= kBlank; ++label)
            if (logits[label * steps + step] > logits[best[step] * steps + step])
                best[step] = label;
    const std::vector<int> text = collapse(best);
    Reading reading;
    reading.plate = written(text);
    reading.second = written(second_choice(probs, best, text));
    reading.confidence = text_probability(probs, text);
    reading.grammar = is_plate(text);
    int last = kBlank;
    for (int step = 0; step < steps; ++step) {
        const double value = probs[step][best[step]];
        if (best[step] != kBlank && best[step] != last)
            reading.characters.push_back(value);
        else if (best[step] != kBlank)
            reading.characters.back() = std::max(reading.characters.back(), value);
        last = best[step];
    }
    return reading;
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

Readings read_plates(const Network &network, const std::vector<fs::path> &files,
                     Timings &timings) {
    const int batch = network.input().dims[0], steps = network.output().dims[2];
    const std::size_t pixels = kChannels * kHeight * kWidth;
    Readings plates;
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
                    read_plate(&logits[i * (kBlank + 1) * steps], steps);
        }
    }
    return plates;
}

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", value);
    return text;
}

std::string listed(const std::vector<double> &values, const char *separator) {
    std::string result;
    for (const double value : values)
        result += (result.empty() ? "" : separator) + number(value);
    return result;
}

void write_plates(std::ostream &file, const Readings &plates) {
    const char *separator = "{";
    for (const auto &[name, reading] : plates) {
        file << separator << "\n " << quoted(name) << ": " << quoted(reading.plate);
        separator = ",";
    }
    file << "\n}\n";
}

void write_details(std::ostream &file, const Readings &plates, const Timings &timings) {
    file << "{\n \"decoder\": \"greedy\",\n \"confidence\": \"the decoder's own: it orders "
            "readings, and was calibrated on nothing\",\n \"milliseconds\": {";
    const char *separator = "";
    for (const auto &[stage, milliseconds] : timings.each(plates.size())) {
        file << separator << quoted(stage) << ": " << number(milliseconds);
        separator = ", ";
    }
    file << "},\n \"plates\": ";
    separator = "{";
    for (const auto &[name, reading] : plates) {
        file << separator << "\n  " << quoted(name) << ": {\"plate\": " << quoted(reading.plate)
             << ", \"confidence\": " << number(reading.confidence) << ", \"characters\": ["
             << listed(reading.characters, ", ") << "], \"second\": " << quoted(reading.second)
             << ", \"grammar\": " << (reading.grammar ? "true" : "false") << "}";
        separator = ",";
    }
    file << "\n }\n}\n";
}

std::string cell(const std::string &text) {  // RFC 4180
    if (text.find_first_of(",\"\r\n") == std::string::npos)
        return text;
    std::string result = "\"";
    for (const char c : text)
        result += c == '"' ? "\"\"" : std::string(1, c);
    return result + '"';
}

void write_csv(std::ostream &file, const Readings &plates, const Timings &timings, bool details) {
    const auto times = timings.each(plates.size());
    file << "file,plate";
    if (details)
        file << ",confidence,characters,second,grammar";
    for (const auto &[stage, milliseconds] : times)
        if (details)
            file << ',' << stage << "_ms";
    for (const auto &[name, reading] : plates) {
        file << '\n' << cell(name) << ',' << reading.plate;
        if (!details)
            continue;
        file << ',' << number(reading.confidence) << ',' << listed(reading.characters, " ") << ','
             << reading.second << ',' << (reading.grammar ? "yes" : "no");
        for (const auto &[stage, milliseconds] : times)
            file << ',' << number(milliseconds);
    }
    file << '\n';
}

void write_results(const Options &options, const Readings &plates, const Timings &timings) {
    std::ofstream file(options.output);
    if (options.output.extension() == ".csv")
        write_csv(file, plates, timings, options.details);
    else if (options.details)
        write_details(file, plates, timings);
    else
        write_plates(file, plates);
    file.close();
    if (!file)
        throw std::runtime_error("cannot write " + options.output.string());
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
        const Readings plates = read_plates(network, files, timings);
        write_results(options, plates, timings);
        std::printf("%zu images, ms each:", files.size());
        for (const auto &[stage, milliseconds] : timings.each(files.size()))
            std::printf("%s %s %.3f", stage == "decode" ? "" : ",", stage.c_str(), milliseconds);
        std::printf("\n");
    } catch (const std::exception &error) {
        std::cerr << "lprnet: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
