// Decodes JPEG and PNG to 8-bit RGB with the values that Pillow's convert("RGB") gives. Component yoke::images.
#pragma once
#include <yoke/core/errors.hpp>
#include <yoke/data/picture.hpp>

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// clang-format off
#include <jpeglib.h>  // needs <cstddef> and <cstdio> before it
#include <jerror.h>   // needs <jpeglib.h> before it
#include <png.h>
// clang-format on

namespace yoke::data {

/// The largest image that is decoded, in pixels: what a hostile header can make a decoder allocate is bounded.
inline constexpr std::uint64_t most_pixels = std::uint64_t{1} << 28;

namespace detail {

// Both libraries report errors by longjmp. Each function that calls setjmp holds only trivial objects, and
// everything that owns memory lives in an object outside of it, so that no destructor is jumped over.

/// libjpeg's decompressor with an error handler that jumps back instead of ending the process.
class jpeg_decompressor {
 public:
  jpeg_decompressor() {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = [](j_common_ptr info) {
      auto* const self = static_cast<jpeg_decompressor*>(info->client_data);
      info->err->format_message(info, self->message_);
      std::longjmp(self->back_, 1);
    };
    // Warnings that mean lost pixels end the decoding; others (stray bytes, odd markers) don't matter.
    errors_.emit_message = [](j_common_ptr info, int level) {
      auto const code = info->err->msg_code;
      if (level < 0 && (code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE ||
                        code == JWRN_ARITH_BAD_CODE || code == JWRN_MUST_RESYNC))
        info->err->error_exit(info);
    };
    source_.init_source = [](j_decompress_ptr) {};
    source_.term_source = [](j_decompress_ptr) {};
    source_.resync_to_restart = jpeg_resync_to_restart;
    // A file may lack its end marker and still hold all pixels: libjpeg gets one and says if it needed more.
    source_.fill_input_buffer = [](j_decompress_ptr info) -> boolean {
      static constexpr JOCTET end[] = {0xFF, JPEG_EOI};
      static_cast<jpeg_decompressor*>(info->client_data)->ran_out_ = true;
      info->src->next_input_byte = end;
      info->src->bytes_in_buffer = sizeof end;
      return TRUE;
    };
    source_.skip_input_data = [](j_decompress_ptr info, long count) {
      auto const left = static_cast<long>(info->src->bytes_in_buffer);
      if (count > left) {
        info->src->fill_input_buffer(info);
      } else if (count > 0) {
        info->src->next_input_byte += count;
        info->src->bytes_in_buffer -= static_cast<std::size_t>(count);
      }
    };
    monitor_.progress_monitor = [](j_common_ptr common) {
      auto* const info = reinterpret_cast<j_decompress_ptr>(common);
      if (info->input_scan_number > most_scans)
        std::longjmp(static_cast<jpeg_decompressor*>(common->client_data)->too_many_scans(), 1);
    };
    created_ = create();
  }
  jpeg_decompressor(jpeg_decompressor const&) = delete;
  jpeg_decompressor& operator=(jpeg_decompressor const&) = delete;
  ~jpeg_decompressor() {
    if (created_)
      jpeg_destroy_decompress(&info_);
  }

  void decode(std::span<std::byte const> bytes, picture& image) {
    if (!created_ || !read_header(bytes))
      throw io::error("", "JPEG", message_);
    auto const width = std::uint64_t{info_.image_width}, height = std::uint64_t{info_.image_height};
    if (width * height > most_pixels) {
      jpeg_abort_decompress(&info_);
      throw io::error("", "JPEG", "more than " + std::to_string(most_pixels) + " pixels");
    }
    image.resize(static_cast<extent_t>(height), static_cast<extent_t>(width));
    if (info_.out_color_space == JCS_CMYK)
      row_.resize(static_cast<std::size_t>(width) * 4);
    auto const ok = read_pixels(image.pixels.data(), row_.data());
    auto const incomplete = ran_out_ && info_.progressive_mode != 0;
    jpeg_abort_decompress(&info_);
    if (!ok)
      throw io::error("", "JPEG", message_);
    if (incomplete)
      throw io::error("", "JPEG", "the image is cut short: later scans are missing");
  }

 private:
  static constexpr int most_scans = 200;  // each costs the time of a whole image; real files have about ten

  std::jmp_buf& too_many_scans() {
    std::snprintf(message_, sizeof message_, "more than %d scans", most_scans);
    return back_;
  }

  bool create() {
    if (setjmp(back_) != 0)
      return false;
    info_.client_data = this;
    jpeg_create_decompress(&info_);
    return true;
  }

  bool read_header(std::span<std::byte const> bytes) {
    if (setjmp(back_) != 0) {
      jpeg_abort_decompress(&info_);
      return false;
    }
    ran_out_ = false;
    source_.next_input_byte = reinterpret_cast<JOCTET const*>(bytes.data());
    source_.bytes_in_buffer = bytes.size();
    info_.src = &source_;
    info_.progress = &monitor_;
    jpeg_read_header(&info_, TRUE);
    // Four channels are CMYK or YCCK; everything else libjpeg brings to RGB itself.
    info_.out_color_space = info_.num_components == 4 ? JCS_CMYK : JCS_RGB;
    return true;
  }

  bool read_pixels(std::uint8_t* pixels, std::uint8_t* row) {
    if (setjmp(back_) != 0)
      return false;
    jpeg_start_decompress(&info_);
    while (info_.output_scanline < info_.output_height) {
      auto* const target = pixels + std::size_t{info_.output_scanline} * info_.output_width * 3;
      JSAMPROW line = info_.out_color_space == JCS_CMYK ? row : target;
      jpeg_read_scanlines(&info_, &line, 1);
      if (line == row)
        to_rgb(row, target, info_.output_width);
    }
    return true;
  }

  /// Adobe writes CMYK inverted, and Pillow takes every CMYK JPEG to be Adobe's.
  static void to_rgb(std::uint8_t const* cmyk, std::uint8_t* rgb, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
      auto const black = static_cast<int>(cmyk[i * 4 + 3]);
      for (std::size_t c = 0; c < 3; ++c) {
        auto const product = (255 - cmyk[i * 4 + c]) * black + 128;
        auto const v = black - (((product >> 8) + product) >> 8);
        rgb[i * 3 + c] = static_cast<std::uint8_t>(v < 0 ? 0 : v);
      }
    }
  }

  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr monitor_{};
  std::jmp_buf back_{};
  char message_[JMSG_LENGTH_MAX] = "no decompressor";
  bool created_ = false, ran_out_ = false;
  std::vector<std::uint8_t> row_{};
};

/// One PNG file being read.
class png_file {
 public:
  explicit png_file(std::span<std::byte const> bytes) : bytes_{bytes} {
    reader_ =
        png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, [](png_structp, png_const_charp) {});
    if (reader_ != nullptr)
      info_ = png_create_info_struct(reader_);
  }
  png_file(png_file const&) = delete;
  png_file& operator=(png_file const&) = delete;
  ~png_file() { png_destroy_read_struct(&reader_, &info_, nullptr); }

  void decode(picture& image) {
    if (info_ == nullptr || !read_header())
      throw io::error("", "PNG", message_);
    auto const width = png_get_image_width(reader_, info_), height = png_get_image_height(reader_, info_);
    if (std::uint64_t{width} * height > most_pixels)
      throw io::error("", "PNG", "more than " + std::to_string(most_pixels) + " pixels");
    image.resize(height, width);
    rows_.resize(height);
    for (std::size_t y = 0; y < height; ++y) rows_[y] = image.pixels.data() + y * width * 3;
    if (!read_pixels())
      throw io::error("", "PNG", message_);
  }

 private:
  static void on_error(png_structp reader, png_const_charp message) {
    auto* const self = static_cast<png_file*>(png_get_error_ptr(reader));
    std::snprintf(self->message_, sizeof self->message_, "%s", message);
    std::longjmp(self->back_, 1);
  }
  static void on_read(png_structp reader, png_bytep target, std::size_t count) {
    auto* const self = static_cast<png_file*>(png_get_io_ptr(reader));
    if (count > self->bytes_.size())
      png_error(reader, "the image is cut short");
    std::memcpy(target, self->bytes_.data(), count);
    self->bytes_ = self->bytes_.subspan(count);
  }

  bool read_header() {
    if (setjmp(back_) != 0)
      return false;
    png_set_read_fn(reader_, this, on_read);
    png_set_user_limits(reader_, 1u << 28, 1u << 28);
    png_set_chunk_malloc_max(reader_, 16u << 20);
    png_read_info(reader_, info_);
    // Palettes, shades below 8 bits and gray become RGB; of 16 bits the upper 8 stay; alpha is dropped.
    png_set_palette_to_rgb(reader_);
    png_set_expand_gray_1_2_4_to_8(reader_);
    png_set_strip_16(reader_);
    png_set_strip_alpha(reader_);
    png_set_gray_to_rgb(reader_);
    png_set_interlace_handling(reader_);
    png_read_update_info(reader_, info_);
    if (png_get_rowbytes(reader_, info_) != std::size_t{png_get_image_width(reader_, info_)} * 3)
      png_error(reader_, "a pixel format that is not supported");
    return true;
  }

  bool read_pixels() {
    if (setjmp(back_) != 0)
      return false;
    png_read_image(reader_, rows_.data());
    png_read_end(reader_, nullptr);
    return true;
  }

  std::span<std::byte const> bytes_;
  png_structp reader_ = nullptr;
  png_infop info_ = nullptr;
  std::jmp_buf back_{};
  char message_[160] = "no memory";
  std::vector<png_bytep> rows_{};
};

}  // namespace detail

/// Decodes images and keeps its working memory. One thread at a time.
class image_decoder {
 public:
  /// Decodes a whole JPEG or PNG file. Gray, palette, CMYK and 16-bit images become RGB, alpha is dropped.
  /// Throws io::error with the rule (cut short, corrupt, neither format, larger than most_pixels); the caller
  /// knows the file's name.
  void operator()(std::span<std::byte const> file, picture& image) {
    auto starts = [&](std::string_view magic) {
      return file.size() >= magic.size() && std::memcmp(file.data(), magic.data(), magic.size()) == 0;
    };
    if (starts("\xFF\xD8\xFF"))
      jpeg_.decode(file, image);
    else if (starts("\x89PNG\r\n\x1A\n"))
      detail::png_file{file}.decode(image);
    else
      throw io::error("", "image", file.empty() ? "it is empty" : "neither JPEG nor PNG");
  }

 private:
  detail::jpeg_decompressor jpeg_{};
};

/// One image, decoded for once. See image_decoder.
inline picture decode_image(std::span<std::byte const> file) {
  picture image;
  image_decoder{}(file, image);
  return image;
}

}  // namespace yoke::data
