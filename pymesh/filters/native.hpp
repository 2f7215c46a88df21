// The contract's messages in C++, over the functions of pymesh_filter.h: what `pymesh filter build` compiles hooks
// against (`native.pxd` tells Cython of it), and what a filter in C++ may use.
//
// Text behaves as `str` of Latin-1 characters does, or as None. What would raise in Python throws `Failure`, and the
// hook that it leaves fails.
#ifndef PYMESH_NATIVE_HPP
#define PYMESH_NATIVE_HPP

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "pymesh_filter.h"

namespace pymesh {

// A hook cannot go on.
struct Failure {
    std::string why;
};

struct Call {
    const pymesh_host *host;
    pymesh_message *message;
};

// For text that a hook makes: the call that this thread runs.
inline const Call *&current() {
    static thread_local const Call *call = nullptr;
    return call;
}

inline char *allocate(size_t size) {
    char *memory = current()->host->allocate(current()->message, size);
    if (memory == nullptr) throw Failure{"MemoryError: more than 1 MiB of text in one hook"};
    return memory;
}

class Text {
  public:
    Text() : data_(nullptr), size_(0) {}
    Text(const char *data, size_t size) : data_(data), size_(size) {}
    explicit Text(pymesh_text text) : data_(text.data), size_(text.size) {}
    operator pymesh_text() const { return pymesh_text{data_, size_}; }

    bool is_none() const { return data_ == nullptr; }
    explicit operator bool() const { return size_ != 0; }
    std::string copy() const { return is_none() ? std::string() : std::string(data_, size_); }
    const char *begin() const { return data_; }
    const char *end() const { return data_ + size_; }

    bool operator==(const Text &other) const {
        if (is_none() || other.is_none()) return is_none() && other.is_none();
        return size_ == other.size_ && std::memcmp(data_, other.data_, size_) == 0;
    }
    bool operator!=(const Text &other) const { return !(*this == other); }

    Text operator+(const Text &other) const {
        char *memory = allocate(must("+").size_ + other.must("+").size_);
        std::copy(begin(), end(), memory);
        std::copy(other.begin(), other.end(), memory + size_);
        return Text(memory, size_ + other.size_);
    }

    long long length() const { return static_cast<long long>(must("len").size_); }
    bool contains(const Text &part) const {
        return std::search(must("in").begin(), end(), part.must("in").begin(), part.end()) != end() || !part;
    }
    bool startswith(const Text &start) const {
        return must("startswith").size_ >= start.must("startswith").size_ &&
               std::memcmp(data_, start.data_, start.size_) == 0;
    }
    bool endswith(const Text &tail) const {
        return must("endswith").size_ >= tail.must("endswith").size_ &&
               std::memcmp(end() - tail.size_, tail.data_, tail.size_) == 0;
    }
    Text removeprefix(const Text &start) const {
        return startswith(start) ? Text(data_ + start.size_, size_ - start.size_) : *this;
    }
    Text removesuffix(const Text &tail) const { return endswith(tail) ? Text(data_, size_ - tail.size_) : *this; }
    // All Latin-1 letters have their small letter in Latin-1; the other way that is not so.
    Text lower() const {
        char *memory = allocate(must("lower").size_);
        std::transform(begin(), end(), memory, [](char one) {
            unsigned char c = static_cast<unsigned char>(one);
            bool capital = (c >= 'A' && c <= 'Z') || (c >= 0xc0 && c <= 0xde && c != 0xd7);
            return static_cast<char>(capital ? c + 32 : c);
        });
        return Text(memory, size_);
    }
    Text strip() const {
        const char *from = must("strip").begin(), *to = end();
        while (from != to && is_space(*from)) ++from;
        while (from != to && is_space(to[-1])) --to;
        return Text(from, static_cast<size_t>(to - from));
    }
    // UTF-8.
    Text encode() const {
        char *memory = allocate(2 * must("encode").size_), *to = memory;
        for (const char *one = begin(); one != end(); ++one) {
            unsigned char c = static_cast<unsigned char>(*one);
            if (c >= 0x80) *to++ = static_cast<char>(0xc0 | c >> 6);
            *to++ = static_cast<char>(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
        }
        return Text(memory, static_cast<size_t>(to - memory));
    }

  private:
    const Text &must(const char *what) const {
        if (is_none()) throw Failure{std::string("TypeError: None has no `") + what + "`"};
        return *this;
    }
    static bool is_space(char one) {
        unsigned char c = static_cast<unsigned char>(one);
        return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0;
    }

    const char *data_;
    size_t size_;
};

inline bool truth(const Text &text) { return static_cast<bool>(text); }
inline bool truth(long long number) { return number != 0; }

// In an f-string.
inline Text formatted(const Text &text) { return text.is_none() ? Text("None", 4) : text; }

// `text in (a, b, ...)`
inline bool any_of(const Text &) { return false; }
template <class... Rest> bool any_of(const Text &text, const Text &one, const Rest &...rest) {
    return text == one || any_of(text, rest...);
}

inline int fail(const Text &why) { throw Failure{why.copy()}; }

// What a function of the proxy has refused.
inline void check(int code, const Text &name) {
    static const char *const why[] = {
        "", "KeyError: `", "ValueError: not a header name: `", "ValueError: control characters, or no such value: `",
        "ValueError: written by the proxy and not by a filter: `", "this message has no `"};
    if (code == PYMESH_OK) return;
    throw Failure{why[code > 0 && code < 6 ? code : 5] + name.copy() + "`"};
}

inline const Text &given(const Text &value, const char *what) {
    if (value.is_none()) throw Failure{std::string("TypeError: None is no ") + what};
    return value;
}

class Headers {
  public:
    explicit Headers(const Call *call = nullptr) : call_(call) {}
    Text get(const Text &name) const {
        return Text(call_->host->get_header(call_->message, given(name, "header name"), 0));
    }
    Text get(const Text &name, const Text &otherwise) const {
        Text value = get(name);
        return value.is_none() ? otherwise : value;
    }
    Text getitem(const Text &name) const {
        Text value = get(name);
        if (value.is_none()) check(PYMESH_ABSENT, name);
        return value;
    }
    bool contains(const Text &name) const { return !get(name).is_none(); }
    long long length() const { return static_cast<long long>(call_->host->header_count(call_->message)); }
    void setitem(const Text &name, const Text &value) const {
        check(call_->host->set_header(call_->message, given(name, "header name"), given(value, "header value")), name);
    }
    void add(const Text &name, const Text &value) const {
        check(call_->host->add_header(call_->message, given(name, "header name"), given(value, "header value")), name);
    }
    void delitem(const Text &name) const {
        check(call_->host->remove_header(call_->message, given(name, "header name")), name);
    }

  private:
    const Call *call_;
};

class Part {
  public:
    explicit Part(const Call *call = nullptr) : call_(call) {}

  protected:
    Text part(int which) const { return Text(call_->host->get(call_->message, which)); }
    void set(int which, const Text &value) const {
        check(call_->host->set(call_->message, which, given(value, "text")), value);
    }
    const Call *call_;
};

class Request : public Part {
  public:
    using Part::Part;
    Headers headers() const { return Headers(call_); }
    Text path() const { return part(PYMESH_PATH); }
    Text authority() const { return part(PYMESH_AUTHORITY); }
    Text method() const { return part(PYMESH_METHOD); }
    Text scheme() const { return part(PYMESH_SCHEME); }
    void set_path(const Text &value) const { set(PYMESH_PATH, value); }
    void set_authority(const Text &value) const { set(PYMESH_AUTHORITY, value); }
};

class Response : public Part {
  public:
    using Part::Part;
    Headers headers() const { return Headers(call_); }
    long long status() const { return call_->host->status(call_->message); }
};

class Context : public Part {
  public:
    using Part::Part;
    Text route() const { return part(PYMESH_ROUTE); }
    Text peer() const { return part(PYMESH_PEER); }
    Text request_id() const {
        Text id = part(PYMESH_REQUEST_ID);
        return id.is_none() ? Text("", 0) : id;
    }
};

// `return reply(status, body).header(name, value).done()`
class Answering {
  public:
    explicit Answering(const Call *call = nullptr) : call_(call) {}
    Answering &header(const Text &name, const Text &value) {
        check(call_->host->reply_header(call_->message, given(name, "header name"), given(value, "header value")), name);
        return *this;
    }
    int done() const { return PYMESH_REPLY; }

  private:
    const Call *call_;
};

inline Answering reply(long long status, const Text &body = Text("", 0)) {
    const Call *call = current();
    int code = status < 200 || status > 599 ? PYMESH_BAD_VALUE
                                            : call->host->reply(call->message, static_cast<int>(status), body);
    check(code, Text("status", 6));
    return Answering(call);
}

// Settings, copied when the filter is loaded.
class Setting {
  public:
    void set(const char *data, size_t size) { value_.assign(data, size), is_none_ = false; }
    Text text() const { return is_none_ ? Text() : Text(value_.data(), value_.size()); }

  private:
    std::string value_;
    bool is_none_ = true;
};

class Settings {
  public:
    void add(const char *data, size_t size) {
        std::string value(data, size);
        values_.insert(std::lower_bound(values_.begin(), values_.end(), value), value);
    }
    long long length() const { return static_cast<long long>(values_.size()); }
    bool contains(const Text &text) const {
        if (text.is_none()) return false;
        auto at = std::lower_bound(values_.begin(), values_.end(), text, is_before);
        return at != values_.end() && Text(at->data(), at->size()) == text;
    }

  private:
    static bool is_before(const std::string &one, const Text &other) {
        return std::lexicographical_compare(one.begin(), one.end(), other.begin(), other.end(), [](char a, char b) {
            return static_cast<unsigned char>(a) < static_cast<unsigned char>(b);
        });
    }
    std::vector<std::string> values_;
};

// Calls a hook and turns what it throws into a failure.
template <class State, class Message>
int run(int (*hook)(State *, Message, Context), void *state, const pymesh_host *host, pymesh_message *message) {
    Call call = {host, message};
    current() = &call;
    std::string why;
    try {
        return hook(static_cast<State *>(state), Message(&call), Context(&call));
    } catch (const Failure &failure) {
        why = failure.why;
    } catch (const std::exception &error) {
        why = error.what();
    } catch (...) {
        why = "an exception of C++";
    }
    host->fail(message, pymesh_text{why.data(), why.size()});
    return PYMESH_FAILED;
}

}  // namespace pymesh

#endif
